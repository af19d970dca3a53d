"""Exemplars: for each bucket that Prometheus is shown, the newest request of which there is a trace.

They lie in rows of a family of their own, which are made when the first trace id comes, so that nothing is paid for
them without tracing. A row has six cells for each bucket: the trace id in three (48, 48 and 32 bits, which a double
holds exactly), the duration, the time, and a checksum of those, by which a reader in another process knows an exemplar
that is half written, or half of another one, and leaves it out.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from time import time
from typing import Final, NamedTuple
from zlib import crc32

from projkit.telemetry.buckets import EXPORTED_BOUNDS
from projkit.telemetry.store import Sample

_CELLS: Final = 6
_VALUE: Final = 3
_TIME: Final = 4
_CHECK: Final = 5
WIDTH: Final = _CELLS * (len(EXPORTED_BOUNDS) + 1)


class Exemplar(NamedTuple):
    """A request: its trace id in 32 hexadecimal digits, its duration, and when it ended, in seconds since 1970."""

    trace_id: str
    seconds: float
    at: float


def write(row: Sample, seconds: float, trace_id: str) -> None:
    """Keeps a request as the newest of its bucket; ``trace_id`` has 32 hexadecimal digits."""
    start = bisect_left(EXPORTED_BOUNDS, seconds) * _CELLS
    parts = int(trace_id[:12], 16), int(trace_id[12:24], 16), int(trace_id[24:], 16)
    cells = array("d", (*parts, seconds, time(), 0.0))
    cells[_CHECK] = crc32(cells)
    row[start : start + _CELLS] = cells


def read(cells: Sequence[float]) -> list[Exemplar | None]:
    """The exemplar of each shown bucket, the one without a bound last."""
    found: list[Exemplar | None] = []
    for start in range(0, WIDTH, _CELLS):
        if _is_whole(cells, start):
            first, second, third = (int(part) for part in cells[start : start + _VALUE])
            trace_id = f"{first:012x}{second:012x}{third:08x}"
            found.append(Exemplar(trace_id, cells[start + _VALUE], cells[start + _TIME]))
        else:
            found.append(None)
    return found


def keep_newest(present: list[float], values: list[float]) -> None:
    """Of two workers' exemplars keeps the newer one in each bucket."""
    for start in range(0, WIDTH, _CELLS):
        is_newer = values[start + _TIME] > present[start + _TIME] or not _is_whole(present, start)
        if is_newer and _is_whole(values, start):
            present[start : start + _CELLS] = values[start : start + _CELLS]


def _is_whole(cells: Sequence[float], start: int) -> bool:
    if not cells[start + _TIME]:
        return False
    covered = array("d", cells[start : start + _CELLS])
    covered[_CHECK] = 0.0
    return cells[start + _CHECK] == crc32(covered)
