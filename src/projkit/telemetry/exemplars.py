"""Exemplars: for each exported bucket, the latest request that has a trace.

They are stored in samples of a family of their own, which are created with the first trace id, so they cost nothing
without tracing. A sample has six values for each bucket: the trace id in three (48, 48 and 32 bits, which a double
holds exactly), the duration, the time, and a checksum of those. The checksum lets a reader in another process detect an
exemplar that is only partly written, and skip it.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from time import time
from typing import Final, NamedTuple
from zlib import crc32

from projkit.telemetry.buckets import EXPORTED_BOUNDS
from projkit.telemetry.store import Sample

_VALUES_PER_BUCKET: Final = 6
_SECONDS: Final = 3
_TIME: Final = 4
_CHECKSUM: Final = 5
WIDTH: Final = _VALUES_PER_BUCKET * (len(EXPORTED_BOUNDS) + 1)


class Exemplar(NamedTuple):
    """A request: its trace id (32 hexadecimal digits), its duration, and its end in seconds since 1970."""

    trace_id: str
    seconds: float
    at: float


def write(sample: Sample, seconds: float, trace_id: str) -> None:
    """Store a request as the latest of its bucket; ``trace_id`` has 32 hexadecimal digits."""
    start = bisect_left(EXPORTED_BOUNDS, seconds) * _VALUES_PER_BUCKET
    parts = int(trace_id[:12], 16), int(trace_id[12:24], 16), int(trace_id[24:], 16)
    values = array("d", (*parts, seconds, time(), 0.0))
    values[_CHECKSUM] = crc32(values)
    sample[start : start + _VALUES_PER_BUCKET] = values


def read(values: Sequence[float]) -> list[Exemplar | None]:
    """Return the exemplar of each exported bucket, ending with the unbounded one."""
    exemplars: list[Exemplar | None] = []
    for start in range(0, WIDTH, _VALUES_PER_BUCKET):
        if _is_complete(values, start):
            first, second, third = (int(part) for part in values[start : start + _SECONDS])
            trace_id = f"{first:012x}{second:012x}{third:08x}"
            exemplars.append(Exemplar(trace_id, values[start + _SECONDS], values[start + _TIME]))
        else:
            exemplars.append(None)
    return exemplars


def keep_latest(merged: list[float], values: list[float]) -> None:
    """Merge the exemplars of two workers: keep the later one of each bucket."""
    for start in range(0, WIDTH, _VALUES_PER_BUCKET):
        is_later = values[start + _TIME] > merged[start + _TIME] or not _is_complete(merged, start)
        if is_later and _is_complete(values, start):
            merged[start : start + _VALUES_PER_BUCKET] = values[start : start + _VALUES_PER_BUCKET]


def _is_complete(values: Sequence[float], start: int) -> bool:
    if not values[start + _TIME]:
        return False
    checked = array("d", values[start : start + _VALUES_PER_BUCKET])
    checked[_CHECKSUM] = 0.0
    return values[start + _CHECKSUM] == crc32(checked)
