"""The validations of one kit: created for each event loop, each with at most one run at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import Generic, TypeVar

from projkit.auth.host_authenticator import HostAuthenticator
from projkit.auth.wiring import AuthServices
from projkit.clock import Clock, utc_now
from projkit.db.port import Database
from projkit.db.tables import tables_of
from projkit.errors import UnavailableError
from projkit.http.application import Application
from projkit.http.in_process import in_process_caller
from projkit.settings import Settings
from projkit.validation.authentication import AuthenticationValidation
from projkit.validation.cleanup import ValidationRows
from projkit.validation.endpoints import EndpointValidation

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TimedResults(Generic[T]):
    """The results of one run, with its start and duration."""

    results: T
    started_at: datetime
    duration_ms: float


class SharedRun(Generic[T]):
    """At most one run at a time, in a task of its own.

    Requests that arrive during a run wait for its result; cancelling one of them does not stop the run.
    """

    def __init__(self, run: Callable[[], Awaitable[T]]) -> None:
        self._run = run
        self._task: asyncio.Task[TimedResults[T]] | None = None

    async def join(self) -> TimedResults[T]:
        """Return the results of the current run, or of a new one if there is none.

        Raises:
            UnavailableError: the kit was stopped during the run.
        """
        task = self._task
        if task is None or task.done():
            # In a new context, so that the run's statements are not attributed to the request that started it.
            task = asyncio.get_running_loop().create_task(self._timed_run(), context=Context())
            self._task = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise UnavailableError("The service is shutting down") from None
            raise

    async def close(self) -> None:
        """Cancel the current run and wait until it has cleaned up."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _timed_run(self) -> TimedResults[T]:
        started_at, began = utc_now(), perf_counter()
        results = await self._run()
        return TimedResults(results, started_at, round((perf_counter() - began) * 1000, 3))


class Validations:
    """The two validations on one event loop."""

    def __init__(self, endpoints: EndpointValidation, authentication: AuthenticationValidation) -> None:
        self.endpoints = SharedRun(endpoints.run)
        self.authentication = SharedRun(authentication.run)

    async def close(self) -> None:
        """Cancel current runs and wait until they have cleaned up."""
        await self.endpoints.close()
        await self.authentication.close()


class ValidationFactory:
    """Creates the validations of one kit for each event loop.

    Args:
        app: the kit's application.
        settings: the kit's settings.
        clock: the time by which rows are dated.
        host_authenticates: the host authenticates callers (``get_principal``).
        host_checks_csrf: the host checks CSRF tokens itself (``csrf_check``).
    """

    def __init__(
        self,
        app: Application,
        settings: Settings,
        clock: Clock,
        *,
        host_authenticates: bool,
        host_checks_csrf: bool,
    ) -> None:
        self._app = app.for_in_process_calls(in_process_caller)
        self._settings = settings
        self._clock = clock
        self._host_authenticates = host_authenticates
        self._host_checks_csrf = host_checks_csrf

    def create(
        self,
        database: Database | None = None,
        auth: AuthServices | None = None,
        host: HostAuthenticator | None = None,
    ) -> Validations:
        """Create the validations of this event loop; ``host`` is the authentication by the host's function.

        Without a database and authentication services, because the kit could not start, they report which checks
        fail and which still succeed.
        """

        def host_authenticates() -> bool:
            return self._host_authenticates and (host is None or not host.passes_on)

        rows = (
            None
            if database is None
            else ValidationRows(database, tables_of(self._settings), clock=self._clock)
        )
        return Validations(
            EndpointValidation(self._app, self._settings, rows),
            AuthenticationValidation(
                self._settings,
                auth,
                host_authenticates=host_authenticates,
                host_checks_csrf=self._host_checks_csrf,
            ),
        )
