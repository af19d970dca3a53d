"""What the log says of a collector that does not take what it is sent."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

logger: Final = logging.getLogger("projkit")

QUIET_SECONDS: Final = 60.0


class Complaints:
    """One line a minute at most, however much is lost, and one when it is over; never an address whole, nor a header.

    Args:
        what: ``spans`` or ``metrics``.
        where: the collector, without anything that could be a secret.
    """

    def __init__(self, what: str, where: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._where = where
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = self._dropped = 0
        self._reason = ""
        self._said = float("-inf")
        self._over = True

    def done(self, failed: int, reason: str) -> None:
        """An export is over, and so many of it were not taken."""
        if failed:
            self._reason = reason or "it could not be written"
            self._complain(failed=failed)
        elif not self._over:
            self._over = True
            logger.info("%s are exported to %s again", self._what, self._where)

    def dropped(self, count: int) -> None:
        """So many could not be kept for an export."""
        if count:
            self._complain(dropped=count)

    def _complain(self, *, failed: int = 0, dropped: int = 0) -> None:
        with self._lock:
            self._failed += failed
            self._dropped += dropped
            if self._clock() < self._said + QUIET_SECONDS:
                return
            self._said = self._clock()
            failed, dropped, self._failed, self._dropped = self._failed, self._dropped, 0, 0
            self._over = False
        lost = [f"{failed} failed ({self._reason})"] * bool(failed) + [f"{dropped} dropped"] * bool(dropped)
        logger.warning(
            "%s cannot be exported to %s: %s since the last line like this; requests are served all the same",
            self._what, self._where, ", ".join(lost),
        )  # fmt: skip
