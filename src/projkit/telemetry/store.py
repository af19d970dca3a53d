"""Where a kit counts: rows of numbers by family and labels, of one process or of all workers of a server.

Prometheus' own multi-process mode must be switched on before it is imported and merges files by the metrics' names,
so that two kits, or a kit and its host, would count into each other. Here each kit has a directory of its own.

With a directory every worker has one file in it, mapped into memory, and holds a lock on it for as long as it lives.
Whoever reads adds all files up. What a worker that has ended leaves behind is added once to the file ``retired`` and
then removed, so that its counts neither vanish nor double (``telemetry/workers.py``).

Layout of a file: ``used`` (8 bytes), then rows of: length of the key and number of cells (4 bytes each), the key (JSON,
padded to 8 bytes), the cells (doubles). ``used`` grows only when a row is whole; cells are aligned, so that another
process never sees half of one.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from operator import add
from pathlib import Path
from typing import Final, Protocol, cast

Labels = tuple[str, ...]
Key = tuple[str, Labels]
Table = dict[Key, list[float]]
Rows = Iterable[tuple[Key, list[float]]]
Row = MutableSequence[float]
# Takes a worker's cells into those of the others.
Combine = Callable[[list[float], list[float]], None]

_HEADER: Final = struct.Struct("=Q")
_ROW: Final = struct.Struct("=II")
_CELL: Final = 8
# So many are read or merged in well under a millisecond.
_ROWS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Family:
    """Rows that mean the same for different labels.

    ``width`` is the number of cells of a row. Over several workers a cell is the sum of theirs, for those in
    ``maxima`` the largest and in ``minima`` the smallest; or ``combine`` does it, where cells mean nothing alone. A
    ``gauge`` says how things are now, so that ended workers have no part in it. Past ``limit`` rows the last label
    set stands for all further ones.
    """

    name: str
    width: int = 1
    maxima: frozenset[int] = frozenset()
    minima: frozenset[int] = frozenset()
    combine: Combine | None = None
    gauge: bool = False
    limit: int = 1000

    def merge(self, present: list[float], values: list[float]) -> None:
        """Takes a worker's cells into those of the others."""
        if self.combine is not None:
            self.combine(present, values)
            return
        chosen = [(index, max(present[index], values[index])) for index in self.maxima]
        chosen += [(index, min(present[index], values[index])) for index in self.minima]
        present[:] = map(add, present, values)
        for index, value in chosen:
            present[index] = value


class MmapStore:
    """One process' rows, in any buffer: plain memory, or a file that is mapped into it."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._cells = buffer.cast("d")
        self._used = _HEADER.size
        _HEADER.pack_into(buffer, 0, self._used)

    def add(self, key: Key, width: int) -> Row | None:
        """The cells of a new row, all zero; None where there is no room left."""
        name = _encode(key)
        size = _ROW.size + len(name) + width * _CELL
        if self._used + size > len(self._buffer):
            return None
        _ROW.pack_into(self._buffer, self._used, len(name), width)
        start = self._used + _ROW.size
        self._buffer[start : start + len(name)] = name
        cells = self._cells[(start + len(name)) // _CELL : (start + len(name)) // _CELL + width]
        self._used += size
        _HEADER.pack_into(self._buffer, 0, self._used)
        return cast("Row", cells)

    def rows(self) -> Rows:
        """All rows as they are now."""
        return rows_of(self._buffer)


class MemoryStore:
    """One process' rows where nobody else reads them: as lists, which are counted in quicker than in a map."""

    def __init__(self) -> None:
        self._rows: Table = {}

    def add(self, key: Key, width: int) -> Row | None:
        """The cells of a new row, all zero."""
        row = self._rows[key] = [0.0] * width
        return row

    def rows(self) -> Rows:
        """All rows as they are now."""
        return ((key, list(values)) for key, values in list(self._rows.items()))


def load(path: Path) -> bytes:
    """As much of a file as holds rows, which is little of it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        used = _HEADER.unpack(head)[0] if len(head) == _HEADER.size else 0
        return head + file.read(max(used - _HEADER.size, 0))


def rows_of(buffer: memoryview | bytes) -> Rows:
    """The rows of a file, one by one; of one that is cut short, those that are whole."""
    if len(buffer) < _HEADER.size:
        return iter(())
    used = min(_HEADER.unpack_from(buffer)[0], len(buffer))
    return _rows(bytes(buffer[:used]), used)


def decode(buffer: memoryview | bytes) -> Table:
    """All rows of a file at once."""
    return dict(rows_of(buffer))


def _rows(data: bytes, used: int) -> Iterator[tuple[Key, list[float]]]:
    at = _HEADER.size
    while at + _ROW.size <= used:
        length, width = _ROW.unpack_from(data, at)
        at += _ROW.size
        end = at + length + width * _CELL
        if end > used:
            return
        yield _key(data[at : at + length]), list(struct.unpack_from(f"={width}d", data, at + length))
        at = end


@lru_cache(maxsize=4096)
def _key(name: bytes) -> Key:
    family, *labels = json.loads(name)
    return family, tuple(labels)


def encode(table: Mapping[Key, list[float]]) -> bytes:
    """A file with these rows."""
    parts = [b""]
    for key, values in table.items():
        name = _encode(key)
        parts += (_ROW.pack(len(name), len(values)), name, struct.pack(f"={len(values)}d", *values))
    parts[0] = _HEADER.pack(_HEADER.size + sum(map(len, parts)))
    return b"".join(parts)


def _encode(key: Key) -> bytes:
    name = json.dumps([key[0], *key[1]]).encode()
    return name + b" " * (-len(name) % _CELL)


class Others(Protocol):
    """The other workers of the same server."""

    def files(self, *, retire: bool) -> list[tuple[bytes, bool]]:
        """The file of each, and whether it is alive.

        With ``retire`` what ended ones have left is put together, which takes some milliseconds.
        """


class MetricStore:
    """Hands out the rows of a process; reading gives those of all workers, as far as ``others`` knows any."""

    def __init__(
        self, families: Iterable[Family], file: MmapStore | MemoryStore, others: Others | None = None
    ) -> None:
        self._families = {family.name: family for family in families}
        self._file = file
        self._others = others
        self._rows: dict[Key, Row] = {}
        self._counts: dict[str, int] = {}

    def row(self, family: Family, labels: Labels, overflow: Labels) -> Row:
        """The cells for these labels; past the family's limit those for ``overflow``, so that rows are bounded."""
        key = (family.name, labels)
        found = self._rows.get(key)
        if found is not None:
            return found
        count = self._counts.get(family.name, 0)
        if count >= family.limit and labels != overflow:
            return self.row(family, overflow, overflow)
        cells = self._file.add(key, family.width)
        if cells is None:
            # A file has room for all that the limits allow; should it not, no request fails for it.
            return [0.0] * family.width
        self._counts[family.name] = count + 1
        self._rows[key] = cells
        return cells

    def read(self) -> Table:
        """Every row, over all workers."""
        *_, merged = self.read_on(self.others(retire=True))
        return merged

    def others(self, *, retire: bool) -> list[tuple[bytes, bool]]:
        """The files of the other workers, and whether each is alive; waits for the disk."""
        return [] if self._others is None else self._others.files(retire=retire)

    def read_on(self, others: Iterable[tuple[bytes, bool]]) -> Iterator[Table]:
        """As :meth:`read`, a few rows at a time, for who must not go on for long; the last is the whole."""
        merged: Table = {}
        yield merged
        for rows in _few(self._file.rows()):
            merged.update(rows)
            yield merged
        for data, alive in others:
            for rows in _few(rows_of(data)):
                merge(merged, rows, self._families, alive=alive)
                yield merged


def merge(into: Table, rows: Rows, families: Mapping[str, Family], *, alive: bool) -> None:
    """Adds one worker's rows to those of the others; rows of another version of the code are left out."""
    for key, values in rows:
        family = families.get(key[0])
        if family is None or family.width != len(values) or (family.gauge and not alive):
            continue
        present = into.get(key)
        if present is None:
            into[key] = values
        else:
            family.merge(present, values)


def _few(rows: Rows) -> Iterator[Rows]:
    remaining = iter(rows)
    while few := list(islice(remaining, _ROWS_AT_ONCE)):
        yield few
