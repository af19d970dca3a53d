"""The kit: the one place where everything is put together."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from projkit.auth.anonymous_access import AnonymousAccess
from projkit.auth.authenticator import GetPrincipal, HostAuthenticator
from projkit.auth.connection import request_of, store_response_headers
from projkit.auth.cookies import Cookies
from projkit.auth.csrf import CsrfCheck
from projkit.auth.keys import KeyRing
from projkit.auth.login import HostLogin
from projkit.auth.middleware import AuthMiddleware
from projkit.auth.oidc.routes import OidcRoutes
from projkit.auth.routes import AuthRoutes
from projkit.auth.rules import PathRules
from projkit.auth.session_service import SessionService
from projkit.auth.wiring import build_auth, cookie_names
from projkit.clock import Clock, utc_now
from projkit.db.connect import open_database
from projkit.db.host_engine import HostEngine, resolve_engine
from projkit.db.port import Database
from projkit.db.tables import build_tables
from projkit.errors import ProjkitError, UnavailableError
from projkit.health.celery import CeleryApp
from projkit.health.check_scheduler import CheckScheduler
from projkit.health.checks import HealthCheck
from projkit.health.routes import HealthRoutes
from projkit.health.service import Health
from projkit.http.application import Application, Authenticate
from projkit.http.client import ClientAddresses
from projkit.http.concurrency import ConcurrencyLimiter
from projkit.http.cursor import CursorCodec
from projkit.http.entry import EntryShim
from projkit.http.host_timing import RouteOf, take_over
from projkit.http.instant import InstantAnswers
from projkit.http.openapi import document
from projkit.http.refusal import refuse
from projkit.http.request import Request
from projkit.http.response import Response
from projkit.http.routing import Endpoint
from projkit.http.timing import RequestIds, TimingMiddleware
from projkit.http.tracing import Tracing
from projkit.identity import Principal
from projkit.lifecycle import Lifecycle
from projkit.monitoring.service import Monitoring
from projkit.observers import Observer
from projkit.per_loop import PerLoop
from projkit.projects.facade import Projects
from projkit.projects.idempotency import IdempotentCreation
from projkit.projects.routes import ProjectRoutes, Services
from projkit.projects.service import ProjectService
from projkit.running import Running
from projkit.settings import Settings
from projkit.telemetry import routes as telemetry
from projkit.telemetry.host_routes import HostRoutes
from projkit.telemetry.otel.instruments import MeterProviderOrFactory
from projkit.telemetry.otel.tracing import TracerProviderOrFactory
from projkit.telemetry.wiring import Telemetry
from projkit.validation import routes as validation
from projkit.validation.wiring import ValidationFactory, Validations
from projkit.version import __version__
from projkit.web import pages
from projkit.web import routes as web
from projkit.wrapping import WrappedApp

if TYPE_CHECKING:
    from projkit.redis.connect import RedisClient

# Frameworks type scopes and messages each in their own way, so theirs are taken as they come.
HostApp = Callable[[Any, Any, Any], Awaitable[Any]]
_CURSOR_KEY: Final = "cursor"


class ProjKit:
    """The kit as an ASGI app, to be mounted in a host or served on its own. Making one opens nothing.

    Args:
        settings: by default read from ``PROJKIT_*`` variables.
        engine: the host's own ``AsyncEngine``, ``async_sessionmaker`` or a function that makes one; the kit then
            runs its statements through it and never disposes of it.
        redis: the host's own asyncio Redis client, or a function that makes one for each event loop; holds sessions
            and counts instead of REDIS_URL's, and is never closed.
        authenticate: asks the host whose name and password these are, in place of the kit's own users, when
            somebody logs in; may be a coroutine function; None means nobody's.
        get_principal: asks the host who is calling, from the ASGI scope, instead of reading tokens; may be a
            coroutine function; None means nobody.
        csrf_check: the host's own check of a request's CSRF token, in place of the kit's.
        celery_app: the host's ``celery.Celery``, or a function that gives it, for the health check of its workers.
        tracer_provider: makes the kit's spans, or a function that gives it; by default OpenTelemetry's global one, if
            the host has set any. Nothing global is ever set.
        meter_provider: takes the kit's figures, likewise.
        clock: the time that rows are dated by.

    Raises:
        ConfigurationError: a setting is wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: "HostEngine | None" = None,
        redis: "RedisClient | Callable[[], RedisClient] | None" = None,
        authenticate: HostLogin | None = None,
        get_principal: GetPrincipal | None = None,
        csrf_check: CsrfCheck | None = None,
        celery_app: CeleryApp | None = None,
        tracer_provider: TracerProviderOrFactory | None = None,
        meter_provider: MeterProviderOrFactory | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.settings = settings or Settings()
        self._addresses = ClientAddresses(self.settings.trusted_proxies)
        self._telemetry = Telemetry(
            self.settings,
            version=__version__,
            addresses=self._addresses,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
        )
        self._recorder = self._telemetry.recorder
        self.registry = self._telemetry.registry
        # The scrape without a question, for a port that only Prometheus reaches.
        self.metrics_app: ASGIApp = self._telemetry.metrics_app
        self._engine = engine
        self._redis = redis
        self._host_login = authenticate
        self._get_principal = get_principal
        self._csrf_check = csrf_check
        self._clock = clock
        self._health = Health(
            self.settings, has_redis=redis is not None, celery_app=celery_app, observer=self._recorder
        )
        brought = {
            "engine": engine,
            "redis": redis,
            "authenticate": authenticate,
            "get_principal": get_principal,
            "celery_app": celery_app,
            "tracer_provider": tracer_provider,
            "meter_provider": meter_provider,
        }
        self._monitoring = Monitoring(
            self.settings,
            self._recorder,
            version=__version__,
            database=self._running_database,
            given=frozenset(name for name, value in brought.items() if value is not None),
        )
        self._tables = build_tables(self.settings.table_prefix)
        self._lifecycle: Lifecycle[Running] = Lifecycle(self._open)
        self._application = Application(
            self._endpoints(),
            entry=self,
            start=self._lifecycle.ensure_started,
            authenticate=self._authenticate,
            max_body_bytes=self.settings.max_body_bytes,
            request_timeout_seconds=self.settings.request_timeout_seconds,
            limiters=self._limiters(),
        )
        self._validation_factory = ValidationFactory(
            self._application, self.settings, self._tables, clock,
            host_authenticates=get_principal is not None, host_checks_csrf=csrf_check is not None,
        )  # fmt: skip
        self._areas = {self._area(endpoint.path) for endpoint in self._application.table.endpoints}
        timed = EntryShim(
            TimingMiddleware(self._application, self._recorder, self.tracing, self.request_ids), self._owns
        )
        endpoints = self._application.table.endpoints
        self._app = InstantAnswers(
            timed, endpoints, self.routes, self._recorder, self.tracing, self.request_ids
        )
        self.projects = Projects(self._started_projects)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            take_over(scope)
            await self._app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.wrap(_no_host)(scope, receive, send)
        elif scope["type"] == "websocket":
            await refuse(Response(404), scope, receive, send)

    @property
    def routes(self) -> list[Route]:
        """The kit's routes, for hosts and instrumentors that look templates up."""
        return self._application.routes

    @property
    def observer(self) -> Observer:
        """The receiver of the kit's events; ``PerformanceMiddleware`` reports the host's requests to it."""
        return self._recorder

    @property
    def tracing(self) -> Tracing:
        """Knows the traces of requests; for :class:`~projkit.monitoring.PerformanceMiddleware`."""
        return self._telemetry.tracing

    @property
    def request_ids(self) -> RequestIds:
        """The source of request ids, for the kit's own requests and the host's."""
        return self._telemetry.request_ids

    def count_spans(self, outcome: str, count: int) -> None:
        """Counts spans for whoever exports them: ``exported``, ``failed`` or ``dropped``."""
        self._recorder.record_spans(outcome, count)

    @property
    def ready(self) -> bool:
        """Whether the kit has started on this event loop and is not draining."""
        return self._lifecycle.ready

    @property
    def sessions(self) -> SessionService:
        """Opens and ends sessions for host code, on the event loop on which the kit runs.

        Raises:
            UnavailableError: the kit has not started.
        """
        return self._lifecycle.get().auth.sessions

    async def startup(self) -> None:
        """Opens the database on this event loop; again does nothing.

        Raises:
            ConfigurationError: a setting is wrong, or the schema is not the one that is needed.
            DatabaseUnavailableError: the database does not answer.
        """
        await self._lifecycle.start()

    async def shutdown(self) -> None:
        """Closes what was opened on this event loop; again does nothing."""
        await self._lifecycle.stop()

    def drain(self) -> None:
        """Turns readiness to 503, so that no new requests are sent here; those that come are still answered."""
        self._lifecycle.draining = True

    def add_health_check(
        self,
        name: str,
        function: Callable[[], Any],
        *,
        critical: bool = False,
        timeout: float = 1.0,
        period: float = 5.0,
    ) -> None:
        """Adds a health check of the host's: see :class:`~projkit.health.HealthCheck`. Also while the kit runs.

        Raises:
            ConfigurationError: the name is taken, or a value is wrong.
        """
        self._health.add(HealthCheck(name, function, critical, timeout, period))

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # what hosts pass
        """The kit's lifespan, to be given to the host or entered in the host's own; may be entered more than once."""
        self._monitoring.host_is(app)
        await self._lifecycle.enter()
        try:
            yield
        finally:
            await self._lifecycle.leave()

    def wrap(
        self,
        host_app: HostApp,
        *,
        prefix: str = "",
        auth: PathRules | None = None,
        performance: bool = True,
        instrument: bool = False,
        route_of: RouteOf | None = None,
    ) -> ASGIApp:
        """One ASGI app of both: the kit's paths below ``prefix`` go to the kit, everything else to the host.

        With ``auth`` the host's own paths are guarded by these rules, as :class:`AuthMiddleware` takes them. With
        ``performance`` the host's answers are timed and counted as the kit's are, each under the template that
        ``route_of`` reads from the scope; Starlette's, FastAPI's and Litestar's are known without. ``instrument`` puts
        OpenTelemetry's ASGI instrumentation around a host that has none (``pip install 'projkit[otel]'``).

        Raises:
            ConfigurationError: that is not installed.
        """
        self._monitoring.host_is(host_app)
        host = host_app if auth is None else AuthMiddleware(host_app, self, rules=auth)
        host = self._telemetry.around(
            host, route_of or HostRoutes(host_app), performance=performance, instrumented=instrument
        )
        return WrappedApp(
            self,
            host,
            prefix=prefix.rstrip("/"),
            owns=self._owns,
            startup=self.startup,
            shutdown=self.shutdown,
        )

    async def authenticate(self, scope: Scope) -> Principal:
        """Who makes this request of the host's, or opens this WebSocket; starts the kit if nothing has.

        Asked again it looks again, so that a WebSocket that is open for hours can be held to its session.

        Raises:
            UnauthenticatedError: there are no credentials, or bad ones.
            CsrfFailedError: a cookie authenticates, and another site may have caused the request.
            UnavailableError: nobody can tell, since a store does not answer.
        """
        if (starting := self._lifecycle.ensure_started()) is not None:
            await starting
        request = request_of(scope)
        try:
            return await self._authenticate(request)
        finally:
            store_response_headers(scope, request.answer_headers)

    def openapi(self, prefix: str = "") -> dict[str, Any]:
        """The OpenAPI 3.1 document, each path below ``prefix``, to be merged into a host's document."""
        cookie = cookie_names(self.settings).auth
        return document(self._application.table.endpoints, version=__version__, cookie=cookie, prefix=prefix)

    def _endpoints(self) -> list[Endpoint]:
        prefix = self.settings.api_prefix
        routes = ProjectRoutes(
            lambda: self._lifecycle.get().services,
            prefix=prefix,
            require_if_match=self.settings.require_if_match,
            put_merges=self.settings.put_mode == "merge",
        )
        addresses = self._addresses
        anonymous = AnonymousAccess(self.settings, addresses)
        cookies = Cookies(self.settings, cookie_names(self.settings), addresses, f"{prefix}/auth")
        auth = AuthRoutes(lambda: self._lifecycle.get().auth, self.settings, cookies, addresses)
        oidc = OidcRoutes(
            lambda: self._lifecycle.get().auth.oidc, self.settings, cookies, addresses, auth.cookies_of
        )
        health = HealthRoutes(
            self._health,
            self.settings.shows_health_details,
            version=__version__,
            running=self._check_scheduler,
            draining=lambda: self._lifecycle.draining,
            admits=anonymous.allows_monitoring,
            authenticate=self._authenticate,
            traffic=self._monitoring.traffic,
        )
        probes = health.endpoints(prefix, root_paths=self.settings.health_root_paths)
        validations = validation.endpoints(prefix, self._validations, anonymous.allows_monitoring)
        self._recorder.quick = frozenset(each.path for each in probes)
        self._recorder.probes = self._recorder.quick | {each.path for each in validations}
        self._telemetry.tracing.quiet = self._recorder.quick | {self.settings.metrics_path}
        api = [
            *routes.endpoints(),
            *auth.endpoints(),
            *oidc.endpoints(),
            *probes,
            *self._monitoring.endpoints(anonymous.allows_monitoring),
            *telemetry.endpoints(self.settings.metrics_path, self.registry, anonymous.allows_metrics),
            *validations,
        ]
        in_production = self.settings.env == "production"
        shown = pages.endpoints(
            prefix,
            lambda scope: in_production and addresses.is_secure(scope),
            csrf_header=self.settings.csrf_header_name,
            csrf_cookie=cookies.names.csrf,
            tenants=bool(self.settings.tenant_claim),
        )
        return [*api, *web.endpoints(prefix, api, __version__, cookies.names.auth), *shown]

    def _limiters(self) -> PerLoop[ConcurrencyLimiter] | None:
        settings = self.settings
        if not settings.max_concurrent_requests:
            return None
        return PerLoop(
            partial(
                ConcurrencyLimiter,
                settings.max_concurrent_requests,
                settings.max_queued_requests,
                settings.queue_seconds,
                self._recorder,
            )
        )

    def _running_database(self) -> Database | None:
        running = self._lifecycle.running
        return None if running is None else running.database

    def _check_scheduler(self) -> CheckScheduler | None:
        running = self._lifecycle.running
        if running is None:
            # An instance that is not ready gets no requests, so the readiness probe itself has to begin a lazy start.
            self._lifecycle.start_in_background()
            return None
        return running.health

    def _owns(self, path: str) -> bool:
        """Whether the path is among the kit's; beside them a host may have routes below the same prefix."""
        return self._area(path) in self._areas

    def _area(self, path: str) -> str:
        prefix = self.settings.api_prefix + "/"
        below = path.removeprefix(prefix)
        return path if below == path else prefix + below.partition("/")[0]

    async def _open(self) -> Running:
        self._recorder.require()
        keys = KeyRing(self.settings)
        engine = resolve_engine(self._engine)
        redis, own_redis = self._open_redis()
        try:
            scheduler = self._health.create_scheduler(engine, redis if own_redis is None else None)
            database = await open_database(self.settings, self._tables, engine, observer=self._recorder)
        except ProjkitError as error:
            self._health.cannot_start(error)
            raise
        calls_host = any((self._host_login, self._get_principal, self._csrf_check))
        self._telemetry.open(engine, redis, database.dialect, calls_host=calls_host)
        service = ProjectService(
            database, self._tables, cursors=CursorCodec(partial(keys.secrets, _CURSOR_KEY)), clock=self._clock
        )
        creation = IdempotentCreation(database, self._tables, service, clock=self._clock)
        auth = build_auth(
            self.settings,
            keys,
            database,
            self._tables,
            redis,
            clock=utc_now,  # tokens go by the real time, whatever rows are dated by
            observer=self._recorder,
            authenticate=self._host_login,
            csrf_check=self._csrf_check,
        )
        authenticate: Authenticate = auth.authenticator
        if self._get_principal is not None:
            authenticate = HostAuthenticator(self._get_principal)
        await self._health.start(scheduler)
        return Running(
            database,
            Services(service, creation),
            auth,
            authenticate,
            validations=self._validation_factory.create(database, auth),
            redis=own_redis,
            health=scheduler,
            sampler=self._monitoring.sample(database),
        )

    def _validations(self) -> Validations:
        try:
            return self._lifecycle.get().validations
        except UnavailableError:
            return self._validation_factory.create()

    def _open_redis(self) -> "tuple[RedisClient | None, RedisClient | None]":
        """The client to use, and the one to close."""
        if self._redis is not None:
            return (self._redis() if callable(self._redis) else self._redis), None
        if self.settings.redis_url is None:
            return None, None
        from projkit.redis.connect import open_redis  # noqa: PLC0415 - a kit without Redis does without 8 MiB

        client = open_redis(self.settings.redis_url.get_secret_value())
        return client, client

    def _authenticate(self, request: Request) -> Awaitable[Principal]:
        return self._lifecycle.get().authenticate(request)

    @asynccontextmanager
    async def _started_projects(self) -> AsyncIterator[ProjectService]:
        service = (await self._lifecycle.start()).services.projects
        with self._telemetry.tracing.below_current_span():
            yield service


async def _no_host(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands in for a host where the kit is served on its own; it has no lifespan."""
