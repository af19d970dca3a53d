"""A search of everything that a kit refers to, for state that a forked process must not share with its parent."""

import asyncio
import io
import itertools
import logging
import mmap
import os
import random
import secrets
import socket
import sys
import threading
import types
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

import pytest

_LOCKS: Final = (type(threading.Lock()), type(threading.RLock()))
# What belongs to a process or an event loop: open files and sockets, threads, tasks.
_PROCESS_BOUND: Final = (
    Executor, asyncio.AbstractEventLoop, asyncio.Future, asyncio.Lock, asyncio.Event, io.IOBase, mmap.mmap,
    socket.socket, threading.Thread,
)  # fmt: skip
_COUNTERS: Final = (type(itertools.count()), random.Random)
_FUNCTIONS: Final = (types.FunctionType, types.MethodType, partial)
# Shorter random values, such as the start of a counter, are found by the objects that hold them.
_SHORTEST: Final = 4


class RandomValues:
    """The random values that were drawn while it is active, in every form in which code may keep them."""

    def __init__(self) -> None:
        self.drawn: set[bytes] = set()

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Record what the sources of random values return."""
        urandom, token_bytes, token_hex, uuid4 = (
            os.urandom, secrets.token_bytes, secrets.token_hex, uuid.uuid4
        )  # fmt: skip
        monkeypatch.setattr(os, "urandom", lambda size: self._keep(urandom(size)))
        monkeypatch.setattr(secrets, "token_bytes", lambda size=32: self._keep(token_bytes(size)))
        monkeypatch.setattr(
            secrets, "token_hex", lambda size=32: self._keep(bytes.fromhex(token_hex(size))).hex()
        )
        monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=self._keep(uuid4().bytes)))

    def contained_in(self, value: object) -> bool:
        """Return whether a value contains one that was drawn."""
        if type(value).__module__.startswith("sqlalchemy."):  # names of aliases, which are rendered as anon_1
            return False
        if isinstance(value, uuid.UUID):
            value = value.bytes
        raw = value.encode(errors="replace") if isinstance(value, str) else value
        if not isinstance(raw, bytes | bytearray):
            return False
        return any(each in raw or each.hex().encode() in raw for each in self.drawn)

    def _keep(self, value: bytes) -> bytes:
        if len(value) >= _SHORTEST:
            self.drawn.add(value)
        return value


def suspects(root: object, values: RandomValues, pid: int) -> dict[str, tuple[int, str]]:
    """Return the identity and state of all suspicious objects by their path from ``root``.

    Suspicious are counters and generators of random numbers, held locks, random values, the process id ``pid``, and
    whatever belongs to a process or an event loop. What a :class:`~projkit.per_loop.PerLoop` has set aside in a forked
    process is not searched.
    """
    found = {}
    for path, value in walk(root):
        is_suspect = (
            isinstance(value, (*_COUNTERS, *_PROCESS_BOUND))
            or (isinstance(value, _LOCKS) and _is_held(value))
            or (isinstance(value, int) and value == pid)
            or values.contained_in(value)
        )
        if is_suspect:
            found[path] = (id(value), _state(value))
    return found


def walk(root: object) -> Iterator[tuple[str, Any]]:
    """Yield every object that ``root`` refers to with its path, once each, the nearest ones first."""
    queue: deque[tuple[str, Any]] = deque([("kit", root)])
    seen = {id(root)}
    keep = [root]  # so that no id is reused
    while queue:
        path, value = queue.popleft()
        yield path, value
        for name, child in _children(value):
            if id(child) not in seen:
                seen.add(id(child))
                keep.append(child)
                queue.append((f"{path}{name}", child))


def _children(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, types.ModuleType):
        if value.__name__.split(".")[0] == "projkit":
            yield from ((f".{name}", each) for name, each in vars(value).items())
        return
    if isinstance(value, logging.Logger):  # the host's handlers
        return
    if isinstance(value, type | str | bytes | int | float):
        if isinstance(value, type) and value.__module__.startswith("projkit"):
            yield from ((f".{name}", each) for name, each in vars(value).items())
        return
    if isinstance(value, Mapping):
        yield from (
            (f"[{number}]", each) for number, pair in enumerate(_copy(value.items())) for each in pair
        )
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((f"[{number}]", each) for number, each in enumerate(_copy(value)))
    if isinstance(value, _FUNCTIONS):
        yield from _children_of_function(value)
    for name in _attributes(value):
        if name != "inherited":
            try:
                yield f".{name}", object.__getattribute__(value, name)
            except AttributeError:  # a slot that is not set
                continue


def _children_of_function(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from ((".__self__", value.__self__), (".__func__", value.__func__))
    else:
        for number, cell in enumerate(value.__closure__ or ()):
            yield f".closure[{number}]", cell.cell_contents
        yield ".defaults", value.__defaults__
        module = sys.modules.get(value.__module__)
        if module is not None:
            yield f"<{value.__module__}>", module


def _attributes(value: object) -> set[str]:
    names = set(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names |= {slots} if isinstance(slots, str) else set(slots)
    return names - {"__dict__", "__weakref__"}


def _copy(values: Iterable[Any]) -> list[Any]:
    return list(values)


def _is_held(lock: Any) -> bool:
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def _state(value: object) -> str:
    if isinstance(value, random.Random):
        return str(hash(value.getstate()))
    return "" if isinstance(value, (*_PROCESS_BOUND, *_LOCKS)) else repr(value)
