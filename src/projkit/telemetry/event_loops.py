"""The event loops of the workers, as one of them sees the heartbeats of all.

A blocked event loop cannot report its lag. It writes the time of each heartbeat instead, on the monotonic clock that
all processes of a machine share, and the reader computes for how long it has not run.
"""

from collections.abc import Iterable
from typing import NamedTuple

from projkit.observers import HEARTBEAT_SECONDS
from projkit.telemetry.families import HEARTBEAT, LAG
from projkit.telemetry.store import Labels


class EventLoop(NamedTuple):
    """The event loop of one process.

    Attributes:
        pid: the process id.
        silent_seconds: the time since its last heartbeat.
        lag_seconds: its greatest lag within the last ten seconds, including the present one.
    """

    pid: int
    silent_seconds: float
    lag_seconds: float


def event_loops(samples: Iterable[tuple[Labels, list[float]]], now: float, own_pid: str) -> list[EventLoop]:
    """Return the event loops that have not ended.

    Args:
        samples: those of the family ``EVENT_LOOP``.
        now: the present time on the monotonic clock.
        own_pid: the process that reads. If its own event loop is late, the machine, the container or the interpreter
            was suspended, and so were the others: they are no more late than it is.
    """
    values = dict(samples)
    own_heartbeat = values.get((own_pid,), [0.0, 0.0])[HEARTBEAT]
    suspended = max(0.0, now - own_heartbeat - HEARTBEAT_SECONDS) if own_heartbeat else 0.0
    loops = []
    for (pid,), each in values.items():
        if not each[HEARTBEAT]:
            continue
        silent = max(0.0, now - each[HEARTBEAT] - (0.0 if pid == own_pid else suspended))
        loops.append(EventLoop(int(pid), silent, max(each[LAG], silent - HEARTBEAT_SECONDS)))
    return loops
