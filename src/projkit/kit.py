"""``ProjKit``, the facade of the package."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from projkit.assembly import KitPaths, assemble, create_limiters, put_in_front
from projkit.auth.connection import request_of, store_response_headers
from projkit.auth.csrf import CsrfCheck
from projkit.auth.host_authenticator import GetPrincipal
from projkit.auth.host_sessions import Sessions
from projkit.auth.host_validity import StillValid
from projkit.auth.login import HostLogin
from projkit.auth.middleware import AuthMiddleware
from projkit.auth.rules import PathRules
from projkit.auth.wiring import AuthServices, cookie_names
from projkit.clock import Clock, utc_now
from projkit.errors import UnavailableError
from projkit.health.celery import CeleryApp
from projkit.health.checks import HealthCheck
from projkit.health.service import Health
from projkit.host_survey import warnings_of, warnings_of_mount
from projkit.http import scope_keys
from projkit.http.application import Application
from projkit.http.client import ClientAddresses
from projkit.http.denial import deny
from projkit.http.host_timing import RouteOf, mark_handled_by_kit
from projkit.http.openapi import document
from projkit.http.openapi_names import prefix_names
from projkit.http.problem import problem_response
from projkit.http.response import Response
from projkit.http.timing import RequestIds
from projkit.http.tracing import Tracing
from projkit.identity import Principal
from projkit.lifecycle import Lifecycle
from projkit.monitoring.service import Monitoring
from projkit.observers import Observer
from projkit.per_loop import runs_on_asyncio
from projkit.projects.facade import Projects
from projkit.projects.service import ProjectService
from projkit.running import CurrentRunning, Running
from projkit.settings import Settings
from projkit.startup import HostResources, Startup
from projkit.telemetry.host_routes import HostRoutes
from projkit.telemetry.otel.instruments import MeterProviderOrFactory
from projkit.telemetry.otel.request_tracing import TracerProviderOrFactory
from projkit.telemetry.wiring import Telemetry
from projkit.validation.wiring import ValidationFactory, Validations
from projkit.version import __version__
from projkit.wrapping import HostApp, KitDispatch, check_prefix, combine, no_host

if TYPE_CHECKING:
    from projkit.db.host_engine import HostEngine
    from projkit.redis.connect import RedisClient

logger: Final = logging.getLogger("projkit")


class ProjKit:
    """The kit as an ASGI application, to mount in a host or to serve on its own. Creating it opens nothing.

    Args:
        settings: the settings; by default read from ``PROJKIT_*`` variables.
        engine: the host's ``AsyncEngine`` or ``async_sessionmaker``, or a function that returns one. The kit runs its
            statements through it and never disposes of it.
        redis: the host's asyncio Redis client, or a function that returns one for each event loop. It holds sessions
            and login limits in place of REDIS_URL, and the kit never closes it.
        authenticate: checks a username and password at login, in place of the kit's own users; may be a coroutine
            function. Returns a ``Principal``, None to reject them, or ``Rejected`` to also name the account that the
            failure counts against.
        get_principal: returns the caller of a request, given its ASGI scope: a ``Principal``, or a ``HostCredential``
            that also tells whether a cookie authenticated it. None rejects the request, and ``NOT_MINE`` lets the kit
            read its own credentials. May be a coroutine function.
        csrf_check: checks the CSRF token of a request, in place of the kit. A plain function runs in a thread, like the
            two above, so that it may block.
        still_valid: returns whether a subject (and tenant, with TENANT_CLAIM) still has access, at each refresh and for
            legacy tokens. None or False revokes access, True leaves the scopes as they are, and a collection of scopes
            replaces them. A plain function runs in a thread.
        celery_app: the host's ``celery.Celery``, or a function that returns it; adds a health check of its workers.
        tracer_provider: creates the kit's spans; a provider or a function that returns one. By default
            OpenTelemetry's global provider, if the host has set one; the kit never sets it.
        meter_provider: receives the kit's metrics, in the same way.
        clock: the time by which rows are dated.

    Attributes:
        settings: the settings.
        registry: the metrics for Prometheus; a host may register its own in it.
        metrics_app: the Prometheus scrape without authentication, for a port that only Prometheus can reach.
        projects: the operations on projects for host code.
        sessions: the sessions of the host's users, for host code.
        guards: the guards of the host's routes that are in use.

    Raises:
        ConfigurationError: a setting is invalid, or a function takes other arguments than those above.
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
        still_valid: StillValid | None = None,
        celery_app: CeleryApp | None = None,
        tracer_provider: TracerProviderOrFactory | None = None,
        meter_provider: MeterProviderOrFactory | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.settings = settings = settings or Settings()
        settings.require_servers(host_engine=engine is not None, host_redis=redis is not None)
        host = HostResources(
            engine=engine,
            redis=redis,
            authenticate=authenticate,
            get_principal=get_principal,
            csrf_check=csrf_check,
            still_valid=still_valid,
            celery_app=celery_app,
        )
        host.check_callbacks(with_tenant=bool(settings.tenant_claim))
        addresses = ClientAddresses(settings.trusted_proxies)
        self._telemetry = Telemetry(
            settings,
            version=__version__,
            addresses=addresses,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
        )
        self._recorder = self._telemetry.recorder
        if settings.log_client_address:
            self._recorder.client_of = addresses.get
        self.registry = self._telemetry.registry
        self.metrics_app: ASGIApp = self._telemetry.metrics_app
        self._lifecycle: Lifecycle[Running] = Lifecycle(self._open)
        self._current = CurrentRunning(self._lifecycle)
        self._health = Health(
            settings,
            has_redis=redis is not None,
            celery_app=celery_app,
            observer=self._recorder,
            silent_loops=self._recorder.silent_loops,
        )
        self._monitoring = Monitoring(
            settings,
            self._recorder,
            version=__version__,
            database=self._current.database,
            host_resources=host.names,
        )
        self._startup = Startup(
            settings,
            host,
            clock=clock,
            telemetry=self._telemetry,
            health=self._health,
            monitoring=self._monitoring,
        )
        assembly = assemble(
            settings,
            self._current,
            addresses=addresses,
            registry=self.registry,
            health=self._health,
            monitoring=self._monitoring,
            validations=self._validations,
        )
        self._telemetry.mounted.kinds = assembly.route_kinds
        self._telemetry.tracing.quiet_paths = assembly.quiet_paths
        self._application = Application(
            assembly.endpoints,
            entry=self,
            start=self._lifecycle.ensure_started,
            authenticate=self._current.authenticate,
            max_body_bytes=settings.max_body_bytes,
            request_timeout_seconds=settings.request_timeout_seconds,
            mounted=self._telemetry.mounted,
            limiters=create_limiters(settings, self._recorder),
        )
        self._validation_factory = ValidationFactory(
            self._application,
            settings,
            clock,
            host_authenticates=get_principal is not None,
            host_checks_csrf=csrf_check is not None,
        )
        self._paths = KitPaths(settings.api_prefix, assembly.endpoints)
        self._app = put_in_front(self._application, assembly, self._telemetry, self._paths.contains, settings)
        self.projects = Projects(self._started_projects)
        self.sessions = Sessions(self._started_auth)
        self.guards: MutableMapping[tuple[str, frozenset[str]], Any] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not runs_on_asyncio():
                await self._reject(scope, receive, send)
                return
            mark_handled_by_kit(scope)
            await self._app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.wrap(no_host)(scope, receive, send)
        elif scope["type"] == "websocket":
            await deny(Response(404), scope, receive, send)

    async def _reject(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with 503 on a server that does not run on asyncio."""
        request = request_of(scope, self.request_ids.get(scope).decode())
        try:
            self._lifecycle.reject_other_loops()
        except UnavailableError as error:
            await deny(problem_response(error, request), scope, receive, send)

    @property
    def routes(self) -> list[Route]:
        """The kit's routes, in which hosts and instrumentation look up path templates."""
        return self._application.routes

    @property
    def observer(self) -> Observer:
        """The receiver of the kit's events; ``PerformanceMiddleware`` reports the host's requests to it."""
        return self._recorder

    @property
    def tracing(self) -> Tracing:
        """The traces of requests; ``PerformanceMiddleware`` adds the host's to them."""
        return self._telemetry.tracing

    @property
    def request_ids(self) -> RequestIds:
        """The source of request ids, for the kit's own requests and the host's."""
        return self._telemetry.request_ids

    def count_spans(self, outcome: str, count: int) -> None:
        """Record spans for an exporter; ``outcome`` is ``exported``, ``failed`` or ``dropped``."""
        self._recorder.record_spans(outcome, count)

    def count_worker_exits(self, totals: Mapping[str, int]) -> None:
        """Record how many workers of this server have ended so far, by reason, as their parent has counted them."""
        self._recorder.record_worker_exits(totals)

    @property
    def ready(self) -> bool:
        """True while the kit is running on this event loop and not draining."""
        return self._lifecycle.ready

    async def startup(self) -> None:
        """Open the kit's resources on this event loop, unless they are open.

        Raises:
            ConfigurationError: a setting is invalid, or the schema of the database is not the required one.
            DatabaseUnavailableError: the database does not respond.
        """
        await self._lifecycle.start()

    async def shutdown(self) -> None:
        """Close the kit's resources on this event loop, if they are open."""
        await self._lifecycle.stop()

    def drain(self) -> None:
        """Refuse readiness with 503, so that load balancers send no new requests; requests are still answered."""
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
        """Add a health check of the host, before or while the kit runs.

        The arguments are those of :class:`~projkit.health.HealthCheck`.

        Raises:
            ConfigurationError: the name is taken, or a value is invalid.
        """
        self._health.add(HealthCheck(name, function, critical, timeout, period))

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start the kit, and stop it at the end; pass this to the host, or enter it in the host's own lifespan.

        Lifespans may be nested: the kit stops when the last one ends.

        Args:
            app: the host application, which frameworks pass.
        """
        self._monitoring.detect_framework(app)
        for warning in warnings_of_mount(app, self):
            logger.warning("%s", warning)
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
        inside: bool = False,
    ) -> ASGIApp:
        """Combine host and kit into one ASGI application with one lifespan.

        Args:
            host_app: any ASGI application; it gets all requests but those for the kit.
            prefix: the path below which the kit's paths are found, such as ``/kit``.
            auth: rules that guard the host's paths, as :class:`AuthMiddleware` takes them.
            performance: time and count the host's requests like the kit's.
            instrument: wrap the host in OpenTelemetry's ASGI instrumentation, if it has none of its own. Requires
                ``pip install 'projkit[otel]'``.
            route_of: returns the route template of a host's request, given its scope. The templates of Starlette,
                FastAPI and Litestar are known without it.
            inside: put the kit inside the host's middlewares (CORS, trusted hosts, rate limits), which then see the
                kit's requests too. For Starlette and FastAPI.

        Raises:
            ConfigurationError: the prefix is invalid, the instrumentation is not installed, or ``inside`` is not
                possible.
        """
        self._monitoring.detect_framework(host_app)

        return combine(
            self,
            host_app,
            partial(
                KitDispatch,
                self,
                prefix=check_prefix(prefix),
                public_path=self.settings.public_path or "",
                owns=self._paths.contains,
            ),
            guard=lambda app: app if auth is None else AuthMiddleware(app, self, rules=auth),
            time=partial(
                self._telemetry.wrap_host,
                route_of=route_of or HostRoutes(host_app),
                performance=performance,
                instrumented=instrument,
            ),
            warnings=partial(warnings_of, host_app, inside=inside),
            inside=inside,
        )

    async def authenticate(self, scope: Scope) -> Principal:
        """Return the caller of a host's request or WebSocket; start the kit if it is not running.

        Each call checks again, so that a WebSocket that is open for hours can follow the state of its session.

        Raises:
            UnauthenticatedError: there are no credentials, or they are invalid.
            CsrfFailedError: a cookie authenticates the request, and it fails a CSRF rule.
            UnavailableError: a store that must be consulted does not respond.
        """
        self._lifecycle.reject_other_loops()
        has_lifespan = scope_keys.HAS_NO_LIFESPAN not in scope
        if (starting := self._lifecycle.ensure_started(warn=has_lifespan)) is not None:
            await starting
        request = request_of(scope)
        try:
            return await self._current.authenticate(request)
        finally:
            store_response_headers(scope, request.response_headers)

    def openapi(self, prefix: str = "", *, name_prefix: str = "") -> dict[str, Any]:
        """Return the OpenAPI 3.1 document, to merge into a host's.

        Args:
            prefix: precedes each path; the mount, such as ``/kit``.
            name_prefix: precedes the names of components, operations and tags, such as ``kit_``; without one they can
                collide with the host's, or with those of a second kit.

        Raises:
            ValueError: ``name_prefix`` has a character that the name of a component must not have, or ``prefix`` does
                not start with a slash.
        """
        if prefix and not prefix.startswith("/"):
            raise ValueError(f"the prefix {prefix!r} must start with /, for example /kit")
        cookie = cookie_names(self.settings).auth
        own = document(
            self._application.table.endpoints, version=__version__, cookie=cookie, prefix=prefix.rstrip("/")
        )
        return prefix_names(own, name_prefix) if name_prefix else own

    async def _open(self) -> Running:
        return await self._startup.open(self._validation_factory)

    def _validations(self) -> Validations:
        running = self._lifecycle.find()
        return self._validation_factory.create() if running is None else running.validations

    @asynccontextmanager
    async def _started_projects(self) -> AsyncIterator[ProjectService]:
        running = await self._lifecycle.start()
        with self._telemetry.tracing.below_current_span():
            yield running.projects

    @asynccontextmanager
    async def _started_auth(self) -> AsyncIterator[AuthServices]:
        running = await self._lifecycle.start()
        with self._telemetry.tracing.below_current_span():
            yield running.auth
