"""A worker process of ``projkit serve --workers``, on both ends of the pipe that links it to its parent.

The parent sends :data:`PING`, which a thread of the worker answers with :data:`PONG` even while the event loop is busy,
the number of workers that have ended, by reason, which the worker reports in its metrics, and :data:`STOP_NOW` to end
the drain that a signal has begun. The worker sends :data:`SERVING` once it accepts requests.

Only the parent holds its end of the pipe. When the parent ends, however it ends, the worker therefore reads the end of
the pipe: it stops accepting connections at once, so that the port is free for the next server, finishes the requests
under way, and exits. A worker that has not started yet exits at once.
"""

import asyncio
import logging
import multiprocessing
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from signal import SIGKILL, SIGTERM
from typing import Any, Final

import uvicorn

from projkit.cli.logs import configure_early_logging
from projkit.settings import UnknownSettingWarning

logger: Final = logging.getLogger("projkit")

PING: Final = "ping"
PONG: Final = "pong"
SERVING: Final = "serving"
STOP_NOW: Final = "stop now"
ExitCounts = Mapping[str, int]
# The time for a stop after the last request has ended, such as the export of the last spans.
_STOP_SECONDS: Final = 10.0
_SPAWN: Final = multiprocessing.get_context("spawn")


class WorkerProcess:
    """A running worker, as its parent sees it.

    Attributes:
        started_at: when it was started, on the monotonic clock.
        serving_since: when it began to accept requests; None before.
        stopping_since: when the parent asked it to end; None if it has not.
        is_unresponsive: whether the parent has killed it because it did not respond.
        silent_since: when the ping was sent that it has not answered yet; None if it has answered.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        try:
            self.process = _SPAWN.Process(target=run_worker, args=(config, listener, theirs))
            self.process.start()
        except OSError:
            self.connection.close()
            raise
        finally:
            theirs.close()
        self.started_at = time.monotonic()
        self.serving_since: float | None = None
        self.stopping_since: float | None = None
        self.is_unresponsive = False
        self.silent_since: float | None = None
        self._pinged_at = self.started_at

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid or 0

    @property
    def is_planned(self) -> bool:
        """Whether the parent has asked it to end."""
        return self.stopping_since is not None

    @property
    def exit_code(self) -> int | None:
        """The exit code, or the negative number of the signal that ended the process; None while it runs."""
        return self.process.exitcode

    @property
    def waitables(self) -> list[Any]:
        """The objects to wait for: a message, and the end of the process."""
        return [self.process.sentinel, *([] if self.connection.closed else [self.connection])]

    def send(self, message: str | ExitCounts) -> None:
        """Send a message; a worker that has ended is noticed by its exit."""
        with suppress(OSError):
            self.connection.send(message)

    def ping(self, period_seconds: float) -> None:
        """Ask the worker to respond, once per period, unless it still has to answer the last ping."""
        now = time.monotonic()
        if self.silent_since is None and now - self._pinged_at >= period_seconds:
            self.silent_since = self._pinged_at = now
            self.send(PING)

    def receive(self) -> None:
        """Read all messages that have arrived."""
        try:
            while not self.connection.closed and self.connection.poll():
                if self.connection.recv() == SERVING:
                    self.serving_since = time.monotonic()
                else:
                    self.silent_since = None
        except (OSError, EOFError):
            self.connection.close()

    def stop(self) -> None:
        """Ask the worker to end; a second time, to end without draining."""
        if self.stopping_since is not None:
            self.send(STOP_NOW)
            return
        self.stopping_since = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(self.pid, SIGTERM)

    def kill(self) -> None:
        """End the worker at once."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, SIGKILL)

    def close(self) -> None:
        """Release the resources of a worker that has ended."""
        self.connection.close()
        self.process.join()


class ParentLink:
    """The link of a worker to its parent.

    Args:
        connection: the worker's end of the pipe.
        server: the server to stop when the parent is gone.
        stop_seconds: the time after which a worker without a parent exits, whatever it is doing.
    """

    def __init__(self, connection: Connection, server: uvicorn.Server, stop_seconds: float) -> None:
        self._connection = connection
        self._server = server
        self._stop_seconds = stop_seconds
        self._parent = os.getppid()
        self._sending = threading.Lock()
        self._exits: ExitCounts = {}
        self._report: Callable[[ExitCounts], None] | None = None

    def start(self) -> threading.Thread:
        """Start the thread that listens to the parent, and return it."""
        thread = threading.Thread(target=self._listen, name="projkit-parent-link", daemon=True)
        thread.start()
        return thread

    def report_exits(self, report: Callable[[ExitCounts], None]) -> None:
        """Call ``report`` on the running event loop with the number of ended workers, now and whenever it changes."""
        loop = asyncio.get_running_loop()

        def report_on_loop(exits: ExitCounts) -> None:
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(report, exits)

        self._report = report_on_loop
        report(self._exits)

    def send(self, message: str) -> None:
        """Send a message to the parent; the listening thread notices if it is gone."""
        with self._sending, suppress(OSError):
            self._connection.send(message)

    def _listen(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                if message == PING:
                    self.send(PONG)
                elif message == STOP_NOW:
                    self._server.should_exit = True
                else:
                    self._exits = message
                    if self._report is not None:
                        self._report(message)
        except (OSError, EOFError):
            self._stop_without_parent()

    def _stop_without_parent(self) -> None:
        if self._server.started or self._server.should_exit:
            if not self._server.should_exit:
                logger.warning(
                    "the parent process %d is gone; worker %d finishes its requests and exits",
                    self._parent,
                    os.getpid(),
                )
                self._server.should_exit = True
            # Also a worker that is stopping already may be blocked, and nothing else would end it.
            time.sleep(self._stop_seconds)
            logger.error("worker %d exits now, because it did not stop in time", os.getpid())
        else:  # there is no request to finish, and the port is to be free soon
            logger.warning(
                "the parent process %d is gone; worker %d had not started yet and exits",
                self._parent,
                os.getpid(),
            )
        os._exit(1)


class _LinkedServer(uvicorn.Server):
    """A uvicorn server that tells the parent when it accepts requests."""

    link: ParentLink

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.link.send(SERVING)


_links: Final[list[ParentLink]] = []


def parent_link() -> ParentLink | None:
    """Return the link of this process to its parent; None if it is not a worker."""
    return _links[0] if _links else None


def run_worker(config: uvicorn.Config, listener: socket.socket, connection: Connection) -> None:
    """Serve until the parent asks to stop or is gone; the worker's main function."""
    warnings.simplefilter("ignore", UnknownSettingWarning)  # the parent has reported it
    configure_early_logging()
    try:
        _serve(config, listener, connection)
    except Exception as error:
        # multiprocessing would print the traceback, as plain text.
        logger.critical("worker %d failed: %s", os.getpid(), type(error).__name__, exc_info=error)
        sys.exit(1)


def _serve(config: uvicorn.Config, listener: socket.socket, connection: Connection) -> None:
    config.configure_logging()  # which turns uvicorn's access log off; a new process has not done that
    server = _LinkedServer(config)
    server.link = ParentLink(connection, server, (config.timeout_graceful_shutdown or 0) + _STOP_SECONDS)
    _links[:] = [server.link]
    server.link.start()
    server.run(sockets=[listener])
