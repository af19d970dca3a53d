"""The resources and services of one event loop, and access to those of the running one."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from projkit.auth.wiring import AuthServices
from projkit.cleanup import CleanupTask
from projkit.db.port import Database
from projkit.health.check_scheduler import CheckScheduler
from projkit.host_calls import HostThreads
from projkit.http.application import Authenticate
from projkit.http.request import Request
from projkit.identity import Principal
from projkit.lifecycle import Lifecycle
from projkit.projects.idempotency import IdempotentCreation
from projkit.projects.service import ProjectService
from projkit.telemetry.history import Sampler
from projkit.validation.wiring import Validations

if TYPE_CHECKING:
    from projkit.redis.connect import RedisClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The open resources of a kit on one event loop, and the services that use them.

    Attributes:
        database: the connection pool.
        redis: the Redis client that the kit opened; None if there is none, or if it is the host's.
        projects: the operations on projects.
        idempotent_creation: the creation of projects with an ``Idempotency-Key``.
        auth: the authentication services.
        host_threads: the threads in which the host's functions run.
        authenticate: returns the caller of a request; the host's, if it passed ``get_principal``.
        check_scheduler: runs the health checks in the background.
        sampler: samples the metrics for the windows of the performance report.
        cleanup: removes expired rows in the background; None if it is disabled.
        validations: the self-tests.
    """

    database: Database
    redis: "RedisClient | None"
    projects: ProjectService
    idempotent_creation: IdempotentCreation
    auth: AuthServices
    host_threads: tuple[HostThreads, ...]
    authenticate: Authenticate
    check_scheduler: CheckScheduler
    sampler: Sampler
    cleanup: CleanupTask | None
    validations: Validations

    async def close(self) -> None:
        """Close what the kit opened; what the host passed in stays open."""
        await self.validations.close()
        await self.sampler.close()
        if self.cleanup is not None:
            await self.cleanup.close()
        await self.check_scheduler.close()
        await self.auth.close()
        self._close_host_threads()
        if self.redis is not None:
            from projkit.redis.connect import close_redis  # noqa: PLC0415 - loaded already if there is a client

            await close_redis(self.redis)
        await self.database.close()

    def abandon(self) -> None:
        """Release what can be released after the event loop was closed."""
        self.auth.passwords.close()
        self._close_host_threads()
        self.check_scheduler.abandon()
        self.database.abandon()

    def _close_host_threads(self) -> None:
        for threads in self.host_threads:
            threads.close()


class CurrentRunning:
    """Access to what is running on the current event loop.

    Routes are created once per kit, and services once per event loop. The routes therefore take these methods and call
    them for each request.
    """

    def __init__(self, lifecycle: Lifecycle[Running]) -> None:
        self._lifecycle = lifecycle

    def projects(self) -> ProjectService:
        """Return the operations on projects.

        Raises:
            UnavailableError: the kit is not running.
        """
        return self._lifecycle.get().projects

    def idempotent_creation(self) -> IdempotentCreation:
        """Return the creation of projects with an ``Idempotency-Key``.

        Raises:
            UnavailableError: the kit is not running.
        """
        return self._lifecycle.get().idempotent_creation

    def auth(self) -> AuthServices:
        """Return the authentication services.

        Raises:
            UnavailableError: the kit is not running.
        """
        return self._lifecycle.get().auth

    def secrets(self, label: str) -> tuple[bytes, ...]:
        """Return the secrets that are derived from the signing keys for ``label``, newest first.

        Raises:
            UnavailableError: the kit is not running, or every key has expired.
        """
        return self._lifecycle.get().auth.keys.secrets(label)

    def authenticate(self, request: Request) -> Awaitable[Principal]:
        """Return the caller of a request.

        Raises:
            UnauthenticatedError: there are no credentials, or they are invalid.
            CsrfFailedError: a cookie authenticates the request, and it fails a CSRF rule.
            UnavailableError: the kit is not running, or a store that must be consulted does not respond.
        """
        return self._lifecycle.get().authenticate(request)

    def database(self) -> Database | None:
        """Return the connection pool; None if the kit is not running."""
        running = self._lifecycle.find()
        return None if running is None else running.database

    def check_scheduler(self) -> CheckScheduler | None:
        """Return the scheduler of the health checks; None if the kit is not running, which then starts.

        An instance that is not ready gets no requests, so that the probe itself has to begin a lazy start.
        """
        running = self._lifecycle.find()
        if running is None:
            self._lifecycle.start_in_background()
            return None
        return running.check_scheduler

    def is_draining(self) -> bool:
        """Return whether readiness is refused because the kit is about to stop."""
        return self._lifecycle.draining
