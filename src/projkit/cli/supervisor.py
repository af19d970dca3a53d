"""The parent process of ``projkit serve --workers``: it starts the workers, and replaces those that end.

uvicorn's own supervisor asks one worker after the other whether it responds, and waits for up to half a minute for
each, so that a death is noticed late. This one waits for the ends of all processes at once (their sentinels):

- a worker that ends is logged with its signal or exit code, counted by reason, and replaced at once;
- a worker that ends again and again soon after its start is replaced with increasing delays, while the others serve;
- a process that cannot be started, for lack of memory, of files or of processes, is tried again in the same way;
- a worker that does not respond for :data:`UNRESPONSIVE_SECONDS`, although a thread of its own would, is killed, and so
  is one that does not stop in time;
- SIGHUP replaces one worker after the other: the next one is asked to stop when its successor serves;
- SIGTTIN adds a worker, SIGTTOU removes one;
- SIGTERM and SIGINT stop all workers, a second one without draining.

The server gives up only if a worker fails to start before any has served: the configuration is wrong then.
"""

import logging
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Final

from projkit.cli.worker_exits import EXIT_REASONS, describe_exit, exit_reason, restart_delay
from projkit.cli.worker_process import WorkerProcess

logger: Final = logging.getLogger("projkit")

# The time for a worker to start or to respond, on a busy machine.
UNRESPONSIVE_SECONDS: Final = 30.0
_PING_SECONDS: Final = 5.0
_TICK_SECONDS: Final = 1.0
_WAKEUP_BYTES: Final = 4096
# A parent that slept for so much longer than it wanted to was suspended, and so may its workers have been.
_SUSPENDED_SECONDS: Final = 5.0
# A worker that served for so long did not fail to start.
_STABLE_SECONDS: Final = 10.0
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
IGNORED_SIGNALS: Final = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
HANDLED_SIGNALS: Final = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)


class _Slot:
    """A place for one worker: the worker, or the time of the next attempt to start one."""

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
        self.failures = 0
        self.retry_at = 0.0


class Supervisor:
    """The parent of the workers.

    Args:
        start_worker: starts a worker process.
        workers: the number of workers.
        stop_seconds: the time that a worker may take to stop; it is killed afterwards.
    """

    def __init__(
        self, start_worker: Callable[[], WorkerProcess], *, workers: int, stop_seconds: float
    ) -> None:
        self._start_worker = start_worker
        self._stop_seconds = stop_seconds
        self._slots = [_Slot() for _ in range(workers)]
        self._leaving: list[WorkerProcess] = []
        self._to_replace: deque[_Slot] = deque()
        self._successor: WorkerProcess | None = None
        self._is_stopping = False
        self._failed = False
        self._has_served = False
        self._signals: deque[int] = deque()
        self._wakeups: list[socket.socket] = []
        self.exits: dict[str, int] = dict.fromkeys(EXIT_REASONS, 0)

    def run(self) -> bool:
        """Run the workers until a signal stops the server; return False if none of them could start."""
        with self._handled_signals():
            try:
                while not self._is_stopping or self._workers():
                    self.step()
            finally:  # an error of this process must not leave workers behind
                for worker in self._workers():
                    worker.kill()
        return not self._failed

    def step(self) -> None:
        """Start the workers that are due, wait for the next event, and handle it."""
        if not self._is_stopping:
            self._start_due()
        began, timeout = time.monotonic(), self._seconds_to_wait()
        wait([*self._wakeups, *(each for worker in self._workers() for each in worker.waitables)], timeout)
        if time.monotonic() - began > timeout + _SUSPENDED_SECONDS:
            for worker in self._workers():
                worker.silent_since = None
        for wakeup in self._wakeups:
            with suppress(BlockingIOError):
                wakeup.recv(_WAKEUP_BYTES)
        for worker in self._workers():
            worker.receive()
            self._has_served = self._has_served or worker.serving_since is not None
        # First, because systemd and terminals signal the workers as well: those ends are planned then.
        while self._signals:
            self.handle_signal(self._signals.popleft())
        for worker in self._workers():
            if worker.exit_code is not None:
                self._handle_exit(worker)
        if not self._is_stopping:
            self._kill_unresponsive()
        self._kill_overdue()
        self._continue_replacement()

    def _workers(self) -> list[WorkerProcess]:
        """Return all processes that have not ended."""
        current = [slot.worker for slot in self._slots if slot.worker is not None]
        return [*current, *([] if self._successor is None else [self._successor]), *self._leaving]

    def _seconds_to_wait(self) -> float:
        if self._is_stopping:
            return _TICK_SECONDS
        due = (slot.retry_at for slot in self._slots if slot.worker is None)
        return max(min([time.monotonic() + _TICK_SECONDS, *due]) - time.monotonic(), 0.0)

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.worker is None and time.monotonic() >= slot.retry_at:
                try:
                    slot.worker = self._start()
                except OSError as error:
                    event = f"no process could be started for a worker ({error.strerror or error})"
                    if self._has_served:
                        self._try_again(slot, event)
                    else:
                        self._give_up(event)
                        return

    def _start(self) -> WorkerProcess:
        """Start a worker.

        Raises:
            OSError: the system has no process, memory or file left for it.
        """
        worker = self._start_worker()
        worker.send(self.exits)
        return worker

    # --- ends of workers

    def _handle_exit(self, worker: WorkerProcess) -> None:
        code = worker.exit_code or 0
        reason = exit_reason(code, planned=worker.is_planned, unresponsive=worker.is_unresponsive)
        self.exits[reason] += 1
        worker.close()
        if worker in self._leaving:
            self._leaving.remove(worker)
        elif worker is self._successor:
            self._abort_replacement(f"its successor {worker.pid} {describe_exit(code)}")
        else:
            slot = next(slot for slot in self._slots if slot.worker is worker)
            slot.worker = None
            if not worker.is_planned:
                self._handle_death(worker, slot, code)
        for each in self._workers():
            each.send(self.exits)

    def _handle_death(self, worker: WorkerProcess, slot: _Slot, code: int) -> None:
        what = "did not respond and was killed" if worker.is_unresponsive else describe_exit(code)
        if code > 0 and not self._has_served:
            self._give_up(f"worker {worker.pid} {what}")
            return
        served = None if worker.serving_since is None else time.monotonic() - worker.serving_since
        if served is not None and served >= _STABLE_SECONDS:
            slot.failures = 0
        when = "before it served" if served is None else f"after it had served for {served:.1f} s"
        self._try_again(slot, f"worker {worker.pid} {what} {when}")

    def _try_again(self, slot: _Slot, event: str) -> None:
        """Set the time of the next attempt to start a worker, and log the event."""
        slot.failures += 1
        delay = restart_delay(slot.failures)
        slot.retry_at = time.monotonic() + delay
        if not delay:
            logger.warning("%s; it is being replaced", event)
            return
        serving = sum(each.serving_since is not None for each in self._workers())
        logger.warning(
            "%s, the failure number %d in a row; the next attempt is in %g s, and %d of %d workers serve meanwhile; "
            "see the log lines above for the cause, and run: projkit check",
            event,
            slot.failures,
            delay,
            serving,
            len(self._slots),
        )

    def _give_up(self, event: str) -> None:
        logger.error("%s before any worker served; stopping the server", event)
        self._failed = True
        self._stop()

    def _kill_unresponsive(self) -> None:
        for worker in self._workers():
            worker.ping(_PING_SECONDS)
            since = worker.silent_since
            if since is not None and time.monotonic() - since > UNRESPONSIVE_SECONDS:
                worker.is_unresponsive = True
                worker.kill()

    def _kill_overdue(self) -> None:
        """Kill the workers that were asked to stop and have not, such as those whose event loop is blocked."""
        now = time.monotonic()
        for worker in self._workers():
            since = worker.stopping_since
            if since is not None and now - since > self._stop_seconds and not worker.is_unresponsive:
                worker.is_unresponsive = True
                logger.warning(
                    "worker %d did not stop within %g s; killing it", worker.pid, self._stop_seconds
                )
                worker.kill()

    # --- signals

    @contextmanager
    def _handled_signals(self) -> Iterator[None]:
        """Queue signals during the block; each also ends the wait for the workers."""
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        self._wakeups = [reading]
        for number in IGNORED_SIGNALS:
            signal.signal(number, lambda *_: None)
        for number in HANDLED_SIGNALS:
            signal.signal(number, lambda number, _: self._signals.append(number))
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            reading.close()
            writing.close()

    def handle_signal(self, number: int) -> None:
        """Do what the signal asks for."""
        if number in _STOP_SIGNALS:
            self._stop()
        elif self._is_stopping:
            return
        elif number == signal.SIGHUP:
            logger.info("replacing all workers, one after the other")
            self._leave(self._successor)
            self._successor = None
            self._to_replace = deque(self._slots)
        elif number == signal.SIGTTIN:
            self._slots.append(_Slot())
        elif number == signal.SIGTTOU and len(self._slots) > 1:
            slot = self._slots.pop()
            self._leave(slot.worker)
            if slot in self._to_replace:
                self._to_replace.remove(slot)

    def _stop(self) -> None:
        self._is_stopping = True
        for worker in self._workers():
            worker.stop()

    def _leave(self, worker: WorkerProcess | None) -> None:
        """Ask a worker to stop; it belongs to no slot from then on."""
        if worker is not None:
            worker.stop()
            self._leaving.append(worker)

    # --- the replacement of all workers

    def _continue_replacement(self) -> None:
        if self._is_stopping or not self._to_replace or self._leaving:
            return
        if self._successor is None:
            try:
                self._successor = self._start()
            except OSError as error:
                self._abort_replacement(f"no process could be started ({error.strerror or error})")
        elif self._successor.serving_since is not None:
            slot = self._to_replace.popleft()
            self._leave(slot.worker)
            slot.worker, slot.failures, self._successor = self._successor, 0, None
        elif time.monotonic() - self._successor.started_at > UNRESPONSIVE_SECONDS:
            successor = self._successor
            successor.is_unresponsive = True
            successor.kill()
            self._leaving.append(successor)
            self._abort_replacement(
                f"its successor {successor.pid} did not start within {UNRESPONSIVE_SECONDS:g} s"
            )

    def _abort_replacement(self, reason: str) -> None:
        self._successor = None
        remaining = len(self._to_replace)
        self._to_replace.clear()
        if not self._is_stopping:
            logger.error(
                "a worker is not replaced, because %s; the %d workers that were still to be replaced stay in service; "
                "correct the configuration (projkit check), and send SIGHUP again",
                reason,
                remaining,
            )
