"""Encoding of metrics in Prometheus' formats, in short slices, so that a scrape delays no request.

Encoded in one go, the series of fifty routes block the event loop for 8 ms; in a thread they hold the interpreter lock
just as long. Here the event loop gets its turn after each half millisecond.
"""

import re
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from projkit.telemetry.collector import RecorderCollector, metric_parts
from projkit.telemetry.snapshot import Snapshot
from projkit.telemetry.yielding import Yielder

# A weight of 0 means "not acceptable" (RFC 9110 §12.4.2); prometheus-client ignores it.
_NOT_ACCEPTABLE: Final = re.compile(r";\s*q=0(?:\.0*)?\s*(?:;|$)", re.IGNORECASE)
_EOF: Final = b"# EOF\n"  # OpenMetrics 1.0


class KitRegistry(CollectorRegistry):
    """The registry of the kit's own metrics and of those that the host registers in it."""

    def __init__(self, own: RecorderCollector) -> None:
        super().__init__()
        self.own = own

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, the kit's first."""
        yield from self.own.collect()
        yield from self.host_metrics()

    def host_metrics(self) -> Iterator[Metric]:
        """Yield the host's metrics."""
        yield from super().collect()


class _SingleMetric:
    """A registry of one metric, as encoders require."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


async def render(registry: KitRegistry, accept: str) -> tuple[bytes, str]:
    """Return all metrics in the format that ``accept`` prefers, and its content type."""
    acceptable = (each for each in accept.split(",") if not _NOT_ACCEPTABLE.search(each))
    encode, content_type = choose_encoder(",".join(acceptable))
    snapshot = await registry.own.read()
    parts: list[bytes] = []
    has_eof = False
    yielder = Yielder()
    for metric, first in _parts(registry, snapshot):
        text = encode(_SingleMetric(metric))
        if text.endswith(_EOF):
            text, has_eof = text[: -len(_EOF)], True
        parts.append(text if first else _without_comments(text))
        await yielder.checkpoint()
    if has_eof:
        parts.append(_EOF)
    return b"".join(parts), content_type


def _parts(registry: KitRegistry, snapshot: Snapshot) -> Iterator[tuple[Metric, bool]]:
    yield from metric_parts(snapshot)
    for metric in registry.host_metrics():
        yield metric, True


def _without_comments(text: bytes) -> bytes:
    return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"# "))
