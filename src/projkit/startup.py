"""Startup of a kit on one event loop: opening its resources and creating the services that use them."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from projkit.auth.csrf import CsrfCheck
from projkit.auth.host_authenticator import GetPrincipal, HostAuthenticator
from projkit.auth.host_validity import StillValid
from projkit.auth.keys import KeyRing
from projkit.auth.login import HostLogin
from projkit.auth.wiring import build_auth
from projkit.cleanup import start_cleanup
from projkit.clock import Clock, utc_now
from projkit.db.connect import open_database
from projkit.db.host_engine import resolve_engine, warn_of_other_url
from projkit.db.tables import tables_of
from projkit.errors import ProjkitError
from projkit.health.celery import CeleryApp
from projkit.health.service import Health
from projkit.host_calls import (
    LOGIN_THREADS,
    REQUEST_THREADS,
    HostThreads,
    check_signature,
    is_coroutine_function,
    is_in_own_thread,
)
from projkit.host_deadlines import REQUEST_SECONDS, HostDeadlines, HostFunction
from projkit.http.cursor import CursorCodec
from projkit.monitoring.service import Monitoring
from projkit.projects.idempotency import IdempotentCreation
from projkit.projects.service import ProjectService
from projkit.running import Running
from projkit.settings import Settings
from projkit.telemetry.wiring import Telemetry
from projkit.validation.wiring import ValidationFactory

if TYPE_CHECKING:
    from collections.abc import Callable

    from projkit.db.host_engine import HostEngine
    from projkit.redis.connect import RedisClient

_CURSOR_KEY: Final = "cursor"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResources:
    """The arguments of :class:`~projkit.ProjKit` by which a host replaces parts of the kit; described there."""

    engine: "HostEngine | None"
    redis: "RedisClient | Callable[[], RedisClient] | None"
    authenticate: HostLogin | None
    get_principal: GetPrincipal | None
    csrf_check: CsrfCheck | None
    still_valid: StillValid | None
    celery_app: CeleryApp | None

    @property
    def names(self) -> frozenset[str]:
        """The names of those that were passed."""
        return frozenset(name for name in self.__slots__ if getattr(self, name) is not None)

    def check_callbacks(self, *, with_tenant: bool) -> None:
        """Check how the functions are called; ``with_tenant`` is whether there are tenants.

        Raises:
            ConfigurationError: a function takes other arguments.
        """
        subject = ("subject", "tenant_id") if with_tenant else ("subject",)
        for name, parameters in (
            ("authenticate", ("username", "password")),
            ("get_principal", ("scope",)),
            ("csrf_check", ("request",)),
            ("still_valid", subject),
        ):
            if (function := getattr(self, name)) is not None:
                check_signature(name, function, *parameters)

    @property
    def has_callbacks(self) -> bool:
        """True if requests call functions of the host."""
        return any((self.authenticate, self.get_principal, self.csrf_check, self.still_valid))


class Startup:
    """Opens the resources of one kit, once for each event loop."""

    def __init__(
        self,
        settings: Settings,
        host: HostResources,
        *,
        clock: Clock,
        telemetry: Telemetry,
        health: Health,
        monitoring: Monitoring,
    ) -> None:
        self._settings = settings
        self.host = host
        self._clock = clock
        self._telemetry = telemetry
        self._health = health
        self._monitoring = monitoring

    async def open(self, validations: ValidationFactory) -> Running:
        """Open the resources on the running event loop, and wait for the first round of critical health checks.

        Raises:
            ConfigurationError: a setting is invalid, or the schema of the database is not the required one.
            DatabaseUnavailableError: the database does not respond.
        """
        settings, host, observer = self._settings, self.host, self._telemetry.recorder
        tables = tables_of(settings)
        keys = KeyRing(settings)
        redis, own_redis = self._open_redis()
        try:
            engine = resolve_engine(host.engine)
            if engine is not None:
                warn_of_other_url(settings, engine)
            scheduler = self._health.create_scheduler(engine, redis if own_redis is None else None)
            database = await open_database(settings, tables, engine, observer=observer)
        except ProjkitError as error:
            self._health.record_start_failure(error)
            raise
        self._telemetry.open(engine, redis, database.dialect, calls_host=host.has_callbacks)
        cursors = CursorCodec(partial(keys.secrets, _CURSOR_KEY))
        projects = ProjectService(database, tables, cursors=cursors, clock=self._clock)
        login_seconds = settings.request_timeout_seconds
        logins = HostThreads("login", threads=LOGIN_THREADS, seconds=login_seconds)
        requests = HostThreads("request", threads=REQUEST_THREADS, seconds=REQUEST_SECONDS)
        deadlines = HostDeadlines()

        def bound(name: str, threads: HostThreads, seconds: float) -> HostFunction | None:
            function = getattr(host, name)
            if function is None:
                return None
            return HostFunction(
                name,
                threads.wrap(function),
                seconds,
                watched=not is_coroutine_function(function),
                is_exempt=is_in_own_thread,
                deadlines=deadlines,
            )

        get_principal = bound("get_principal", requests, REQUEST_SECONDS)
        auth = build_auth(
            settings,
            keys,
            database,
            tables,
            redis,
            clock=utc_now,  # tokens follow the real time, whatever clock dates rows
            observer=observer,
            authenticate=bound("authenticate", logins, login_seconds),
            csrf_check=bound("csrf_check", requests, REQUEST_SECONDS),
            still_valid=host.still_valid and requests.wrap(host.still_valid),
        )
        host_authenticator = (
            None if get_principal is None else HostAuthenticator(get_principal, auth.authenticator, auth.csrf)
        )
        await self._health.start(scheduler)
        return Running(
            database=database,
            redis=own_redis,
            projects=projects,
            idempotent_creation=IdempotentCreation(database, tables, projects, clock=self._clock),
            auth=auth,
            host_threads=(logins, requests),
            authenticate=host_authenticator or auth.authenticator,
            check_scheduler=scheduler,
            sampler=self._monitoring.sample(database),
            cleanup=start_cleanup(settings, database, tables, clock=utc_now, observer=observer),
            validations=validations.create(database, auth, host_authenticator),
        )

    def _open_redis(self) -> "tuple[RedisClient | None, RedisClient | None]":
        """Return the client to use, and the one to close at shutdown."""
        redis, url = self.host.redis, self._settings.redis_url
        if redis is not None:
            from projkit.redis.host_client import resolve_redis  # noqa: PLC0415 - loaded already by the host

            return resolve_redis(redis), None
        if url is None:
            return None, None
        from projkit.redis.connect import open_redis  # noqa: PLC0415 - a kit without Redis saves 8 MiB

        client = open_redis(url.get_secret_value())
        return client, client
