"""Writes series in Prometheus' formats, a little at a time, so that a scrape holds no request up.

Written in one go, the series of fifty routes block the event loop for 8 ms; in a thread they hold the interpreter just
as long. Here the loop goes on after each half of one.
"""

import re
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from projkit.telemetry.collector import RecorderCollector, pieces
from projkit.telemetry.snapshot import Snapshot
from projkit.telemetry.yielding import Yielder

# A weight of 0 is "not acceptable" (RFC 9110 §12.4.2), which the library does not read.
_REFUSED: Final = re.compile(r";\s*q=0(?:\.0*)?\s*(?:;|$)", re.IGNORECASE)
_END: Final = b"# EOF\n"  # OpenMetrics 1.0


class KitRegistry(CollectorRegistry):
    """The kit's own series, and those that the host registers here."""

    def __init__(self, own: RecorderCollector) -> None:
        super().__init__()
        self.own = own

    def collect(self) -> Iterator[Metric]:
        """All series, the kit's first."""
        yield from self.own.collect()
        yield from self.others()

    def others(self) -> Iterator[Metric]:
        """The host's series."""
        yield from super().collect()


class _One:
    """A single metric, as encoders take registries."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


async def render(registry: KitRegistry, accept: str) -> tuple[bytes, str]:
    """The text, in the best format that ``accept`` names, and its content type."""
    wanted = (each for each in accept.split(",") if not _REFUSED.search(each))
    encode, content_type = choose_encoder(",".join(wanted))
    snapshot = await registry.own.read()
    parts: list[bytes] = []
    ends = False
    yielder = Yielder()
    for metric, first in _pieces(registry, snapshot):
        text = encode(_One(metric))
        if text.endswith(_END):
            text, ends = text[: -len(_END)], True
        parts.append(text if first else _without_heading(text))
        await yielder.checkpoint()
    if ends:
        parts.append(_END)
    return b"".join(parts), content_type


def _pieces(registry: KitRegistry, snapshot: Snapshot) -> Iterator[tuple[Metric, bool]]:
    yield from pieces(snapshot)
    for metric in registry.others():
        yield metric, True


def _without_heading(text: bytes) -> bytes:
    return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"# "))
