"""The kit: the one place where everything is put together."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.routing import Route

from projkit import __version__
from projkit.auth.bearer import BearerAuthenticator, GetPrincipal, HostAuthenticator
from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenVerifier
from projkit.clock import Clock, utc_now
from projkit.db.connect import open_database
from projkit.db.port import Database
from projkit.db.tables import build_tables
from projkit.health import routes as health
from projkit.http.application import Application, Authenticate
from projkit.http.cursor import CursorCodec
from projkit.http.entry import EntryShim
from projkit.http.openapi import document
from projkit.http.request import ASGIApp, Receive, Request, Scope, Send
from projkit.http.routing import Endpoint
from projkit.http.timing import TimingMiddleware
from projkit.identity import Principal
from projkit.lifecycle import Lifecycle
from projkit.projects.facade import Projects
from projkit.projects.idempotency import IdempotentCreation
from projkit.projects.routes import ProjectRoutes, Services
from projkit.projects.service import ProjectService
from projkit.settings import Settings
from projkit.web import routes as web
from projkit.wrapping import WrappedApp

Engine = AsyncEngine | async_sessionmaker[Any] | Callable[[], AsyncEngine]
_CURSOR_KEY: Final = "cursor"


class Running:
    """What runs on one event loop."""

    __slots__ = ("authenticate", "database", "services")

    def __init__(self, database: Database, services: Services, authenticate: Authenticate) -> None:
        self.database = database
        self.services = services
        self.authenticate = authenticate

    async def close(self) -> None:
        """Closes what was opened; what the host handed in stays open."""
        await self.database.close()


class ProjKit:
    """The kit as an ASGI app, to be mounted in a host or served on its own. Making one opens nothing.

    Args:
        settings: by default read from ``PROJKIT_*`` variables.
        engine: the host's own ``AsyncEngine``, ``async_sessionmaker`` or a function that makes one; the kit then
            runs its statements through it and never disposes of it.
        get_principal: asks the host who is calling, from the ASGI scope, instead of reading Bearer tokens; may be
            a coroutine function; None means nobody.
        clock: the time that rows are dated by.

    Raises:
        ConfigurationError: a setting is wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        get_principal: GetPrincipal | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.settings = settings or Settings()
        self._engine = engine
        self._get_principal = get_principal
        self._clock = clock
        self._tables = build_tables(self.settings.table_prefix)
        self._lifecycle: Lifecycle[Running] = Lifecycle(self._open)
        self._application = Application(
            self._endpoints(),
            authenticate=self._authenticate,
            max_body_bytes=self.settings.max_body_bytes,
            request_timeout_seconds=self.settings.request_timeout_seconds,
        )
        self._app = EntryShim(TimingMiddleware(self._application), self._owns)
        self.projects = Projects(self._started_projects)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._lifecycle.ensure()
            await self._app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.wrap(_no_host)(scope, receive, send)
        elif scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send)

    @property
    def routes(self) -> list[Route]:
        """The kit's routes, for hosts and instrumentors that look templates up."""
        return self._application.routes

    @property
    def ready(self) -> bool:
        """Whether the kit has started on this event loop and is not draining."""
        return self._lifecycle.ready

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

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002  # what hosts pass
        """The kit's lifespan, to be given to the host or entered in the host's own."""
        await self.startup()
        try:
            yield
        finally:
            await self.shutdown()

    def wrap(self, host_app: ASGIApp, *, prefix: str = "") -> ASGIApp:
        """One ASGI app of both: the kit's paths below ``prefix`` go to the kit, everything else to the host."""
        return WrappedApp(
            self,
            host_app,
            prefix=prefix.rstrip("/"),
            owns=self._owns,
            startup=self.startup,
            shutdown=self.shutdown,
        )

    def openapi(self, prefix: str = "") -> dict[str, Any]:
        """The OpenAPI 3.1 document, each path below ``prefix``, to be merged into a host's document."""
        return document(self._application.table.endpoints, version=__version__, prefix=prefix)

    def _endpoints(self) -> list[Endpoint]:
        prefix = self.settings.api_prefix
        routes = ProjectRoutes(
            lambda: self._lifecycle.get().services,
            prefix=prefix,
            require_if_match=self.settings.require_if_match,
            put_merges=self.settings.put_mode == "merge",
        )
        api = [*routes.endpoints(), *health.endpoints(prefix, lambda: self.ready)]
        return [*api, *web.endpoints(prefix, api, __version__)]

    def _owns(self, path: str) -> bool:
        prefix = self.settings.api_prefix
        return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}

    async def _open(self) -> Running:
        keys = load_keys(self.settings)
        database = await open_database(self.settings, self._tables, _resolve(self._engine))
        service = ProjectService(
            database, self._tables, cursors=CursorCodec(keys.derive(_CURSOR_KEY)), clock=self._clock
        )
        creation = IdempotentCreation(database, self._tables, service, clock=self._clock)
        authenticate: Authenticate
        if self._get_principal is not None:
            authenticate = HostAuthenticator(self._get_principal)
        else:
            authenticate = BearerAuthenticator(TokenVerifier(keys, self.settings))
        return Running(database, Services(service, creation), authenticate)

    async def _authenticate(self, request: Request) -> Principal:
        return await self._lifecycle.get().authenticate(request)

    async def _started_projects(self) -> ProjectService:
        return (await self._lifecycle.start()).services.projects


def _resolve(engine: Engine | None) -> AsyncEngine | None:
    if engine is None or isinstance(engine, AsyncEngine):
        return engine
    if isinstance(engine, async_sessionmaker):
        bound = engine.kw["bind"]
        if not isinstance(bound, AsyncEngine):
            raise TypeError("the sessionmaker must be bound to an AsyncEngine")
        return bound
    return engine()


async def _no_host(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands in for a host where the kit is served on its own; it has no lifespan."""


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close", "code": 1008})
