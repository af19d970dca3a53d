"""Log lines about failed exports of telemetry."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

logger: Final = logging.getLogger("projkit")

QUIET_SECONDS: Final = 60.0


class ExportLog:
    """A log that summarises the losses of one signal in at most one line a minute, and notes when exports work again.

    Args:
        signal: ``spans`` or ``metrics``.
        destination: the collector's origin, without credentials.
    """

    def __init__(self, signal: str, destination: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._signal = signal
        self._destination = destination
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = self._dropped = 0
        self._reason = ""
        self._logged_at = float("-inf")
        self._recovered = True

    def record_export(self, failed: int, reason: str) -> None:
        """Record that an export has ended, and how many of its items failed for which reason."""
        if failed:
            self._reason = reason or "it could not be written"
            self._record_loss(failed=failed)
        elif not self._recovered:
            self._recovered = True
            logger.info("%s are exported to %s again", self._signal, self._destination)

    def record_dropped(self, count: int) -> None:
        """Record items that were dropped before any export."""
        if count:
            self._record_loss(dropped=count)

    def _record_loss(self, *, failed: int = 0, dropped: int = 0) -> None:
        with self._lock:
            self._failed += failed
            self._dropped += dropped
            if self._clock() < self._logged_at + QUIET_SECONDS:
                return
            self._logged_at = self._clock()
            failed, dropped, self._failed, self._dropped = self._failed, self._dropped, 0, 0
            self._recovered = False
        losses = [f"{failed} failed ({self._reason})"] * bool(failed) + [f"{dropped} dropped"] * bool(dropped)
        logger.warning(
            "export of %s to %s failed: %s since the last line like this; requests are served normally",
            self._signal,
            self._destination,
            ", ".join(losses),
        )
