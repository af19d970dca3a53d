"""Storage of a kit's metrics: samples by family and labels, of one process or of all workers of a server.

prometheus-client's multiprocess mode must be enabled before it is imported, and it merges files by metric name, so the
metrics of two kits, or of a kit and its host, would be mixed together. Here each kit has a directory of its own.

In that directory every worker has one memory-mapped file, which it locks for as long as it lives. A reader merges all
files. The samples of an ended worker are added once to the file ``retired``, and its own file is then removed, so that
its counts are neither lost nor doubled (``telemetry/workers.py``).

Layout of a file: ``used`` (8 bytes), then entries of: length of the key and number of values (4 bytes each), the key
(JSON, padded to 8 bytes), the values (doubles). ``used`` grows only once an entry is complete, and values are aligned,
so another process never reads half of one.
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from operator import add
from pathlib import Path
from typing import Final, NamedTuple, cast

Labels = tuple[str, ...]
Key = tuple[str, Labels]
Table = dict[Key, list[float]]
# The values of one label set, updated in place.
Sample = MutableSequence[float]
KeyedValues = Iterable[tuple[Key, list[float]]]
# Merges the second worker's values into the first's.
Combine = Callable[[list[float], list[float]], None]

_HEADER: Final = struct.Struct("=Q")
_ENTRY: Final = struct.Struct("=II")
_VALUE_BYTES: Final = 8
# Read or merged in well under a millisecond.
_SAMPLES_PER_STEP: Final = 8


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: samples with the same meaning and different labels.

    Attributes:
        width: the number of values of a sample.
        labels: the number of its labels.
        maxima: the indices of values whose merged value is the largest of all workers'; others are added up.
        minima: likewise, the smallest.
        combine: merges all values instead, where they mean nothing alone.
        gauge: whether the values describe the present, so that ended workers are left out.
        limit: the maximum number of samples; further label sets share the overflow sample.
    """

    name: str
    width: int = 1
    labels: int = 0
    maxima: frozenset[int] = frozenset()
    minima: frozenset[int] = frozenset()
    combine: Combine | None = None
    gauge: bool = False
    limit: int = 1000

    def merge(self, merged: list[float], values: list[float]) -> None:
        """Merge one worker's values into those of the others."""
        if self.combine is not None:
            self.combine(merged, values)
            return
        extremes = [(index, max(merged[index], values[index])) for index in self.maxima]
        extremes += [(index, min(merged[index], values[index])) for index in self.minima]
        merged[:] = map(add, merged, values)
        for index, value in extremes:
            merged[index] = value


class MmapStore:
    """The samples of one process in a buffer that other processes can map and read."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._doubles = buffer.cast("d")
        self._used = _HEADER.size
        _HEADER.pack_into(buffer, 0, self._used)

    def add(self, key: Key, width: int) -> Sample | None:
        """Create a sample of zeros; return None if there is no room left."""
        name = _encode_key(key)
        size = _ENTRY.size + len(name) + width * _VALUE_BYTES
        if self._used + size > len(self._buffer):
            return None
        _ENTRY.pack_into(self._buffer, self._used, len(name), width)
        start = self._used + _ENTRY.size
        self._buffer[start : start + len(name)] = name
        first = (start + len(name)) // _VALUE_BYTES
        sample = self._doubles[first : first + width]
        self._used += size
        _HEADER.pack_into(self._buffer, 0, self._used)
        return cast("Sample", sample)

    def samples(self) -> KeyedValues:
        """Return a copy of all samples."""
        return iter_samples(self._buffer)


class MemoryStore:
    """The samples of a process that no other process reads: lists, which are faster to update than a map."""

    def __init__(self) -> None:
        self._table: Table = {}

    def add(self, key: Key, width: int) -> Sample | None:
        """Create a sample of zeros."""
        sample = self._table[key] = [0.0] * width
        return sample

    def samples(self) -> KeyedValues:
        """Return a copy of all samples."""
        return ((key, list(values)) for key, values in list(self._table.items()))


def load(path: Path) -> bytes:
    """Read the part of a file that is in use, which is a small one.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        used = _HEADER.unpack(head)[0] if len(head) == _HEADER.size else 0
        size = os.fstat(file.fileno()).st_size  # a damaged file can state any length
        return head + file.read(max(min(used, size) - _HEADER.size, 0))


def iter_samples(buffer: memoryview | bytes) -> KeyedValues:
    """Iterate over the samples of a file; in a truncated or damaged one, over the valid ones at its beginning."""
    if len(buffer) < _HEADER.size:
        return iter(())
    used = min(_HEADER.unpack_from(buffer)[0], len(buffer))
    return _iter_entries(bytes(buffer[:used]), used)


def decode(buffer: memoryview | bytes) -> Table:
    """Return all samples of a file."""
    return dict(iter_samples(buffer))


def _iter_entries(data: bytes, used: int) -> Iterator[tuple[Key, list[float]]]:
    position = _HEADER.size
    while position + _ENTRY.size <= used:
        length, width = _ENTRY.unpack_from(data, position)
        position += _ENTRY.size
        end = position + length + width * _VALUE_BYTES
        if end > used:
            return
        try:
            key = _decode_key(data[position : position + length])
        except (ValueError, TypeError, RecursionError):
            return
        yield key, list(struct.unpack_from(f"={width}d", data, position + length))
        position = end


@lru_cache(maxsize=4096)
def _decode_key(name: bytes) -> Key:
    family, *labels = json.loads(name)
    key = family, tuple(labels)
    if not all(isinstance(part, str) for part in (family, *labels)):
        raise TypeError("a key consists of strings")
    return key


def encode(table: Mapping[Key, list[float]]) -> bytes:
    """Return a file with these samples."""
    parts = [b""]
    for key, values in table.items():
        name = _encode_key(key)
        parts += (_ENTRY.pack(len(name), len(values)), name, struct.pack(f"={len(values)}d", *values))
    parts[0] = _HEADER.pack(_HEADER.size + sum(map(len, parts)))
    return b"".join(parts)


def _encode_key(key: Key) -> bytes:
    name = json.dumps([key[0], *key[1]]).encode()
    return name + b" " * (-len(name) % _VALUE_BYTES)


class WorkerFile(NamedTuple):
    """The content of another worker's file."""

    data: bytes
    is_alive: bool


class MetricStore:
    """The metrics of one process, to which those of other workers can be merged."""

    def __init__(self, families: Iterable[Family], backend: MmapStore | MemoryStore) -> None:
        self._families = {family.name: family for family in families}
        self._backend = backend
        self._samples: dict[Key, Sample] = {}
        self._counts: dict[str, int] = {}

    def sample(self, family: Family, labels: Labels, overflow: Labels) -> Sample:
        """Return the sample of these labels; once the family has reached its limit, that of ``overflow``."""
        key = (family.name, labels)
        known = self._samples.get(key)
        if known is not None:
            return known
        count = self._counts.get(family.name, 0)
        if count >= family.limit and labels != overflow:
            return self.sample(family, overflow, overflow)
        sample = self._backend.add(key, family.width)
        if sample is None:
            # The file has room for all that the limits allow; if it is full nonetheless, no request fails for it.
            return [0.0] * family.width
        self._counts[family.name] = count + 1
        self._samples[key] = sample
        return sample

    def move_to(self, backend: MmapStore | MemoryStore) -> None:
        """Continue to count in another backend; samples that were returned before are no longer counted."""
        moved: dict[Key, Sample] = {}
        for key, values in self._samples.items():
            sample = backend.add(key, len(values))
            if sample is not None:
                for index, value in enumerate(values):
                    sample[index] = value
                moved[key] = sample
        self._backend, self._samples = backend, moved

    def merged(self, others: Iterable[WorkerFile]) -> Table:
        """Return the samples of this process merged with those of other workers."""
        *_, merged = self.merge_in_steps(others)
        return merged

    def merge_in_steps(self, others: Iterable[WorkerFile]) -> Iterator[Table]:
        """Do the same as :meth:`merged`, yielding after every few samples; the last table is complete."""
        merged: Table = {}
        yield merged
        for batch in _batches(self._backend.samples()):
            merged.update(batch)
            yield merged
        for data, is_alive in others:
            for batch in _batches(iter_samples(data)):
                merge(merged, batch, self._families, alive=is_alive)
                yield merged


def merge(merged: Table, samples: KeyedValues, families: Mapping[str, Family], *, alive: bool) -> None:
    """Merge one worker's samples into those of the others; skip those of another version of the code."""
    for key, values in samples:
        family = families.get(key[0])
        if family is None or (family.gauge and not alive):
            continue
        if len(values) != family.width or len(key[1]) != family.labels:
            continue
        present = merged.get(key)
        if present is None or len(present) != family.width:  # a worker of another version has retired it
            merged[key] = values
        else:
            family.merge(present, values)


def _batches(samples: KeyedValues) -> Iterator[KeyedValues]:
    remaining = iter(samples)
    while batch := list(islice(remaining, _SAMPLES_PER_STEP)):
        yield batch
