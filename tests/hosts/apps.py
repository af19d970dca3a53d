"""The hosts under test, as servers load them; the environment variables ``HOST`` and ``LAYOUT`` select one.

Each host has its own page (``/host/hello``), its own error handler (``/host/broken``) and its own response for unknown
paths. Layout ``root`` mounts one kit at ``/``; ``siblings`` mounts one at ``/kit`` and another, with its own database,
at ``/kit2``; ``wrapped`` wraps the host in both; in ``guarded`` the kit guards the host that it wraps: ``/host/hello``
is public, ``/host/broken`` requires the scope ``admin``.
"""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from projkit import ProjKit, Settings
from projkit.auth.middleware import PUBLIC
from projkit.auth.rules import PathRules

UNKNOWN = "the host has no such page"
HANDLED = "the host's handler: broken"
HELLO = "hello from the host"
RULES: PathRules = {"/host/hello": PUBLIC, "/host/broken": ("admin",)}


class CountingKit(ProjKit):
    """A kit that reports on stderr how often it was started."""

    def __init__(self, database_url: str) -> None:
        super().__init__(Settings(database_url=database_url))
        self.started = 0

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Count the start and report at the end."""
        self.started += 1
        async with super().lifespan(app):
            yield
        self._report()

    async def startup(self) -> None:
        """Count the start."""
        self.started += 1
        await super().startup()

    async def shutdown(self) -> None:
        """Report."""
        await super().shutdown()
        self._report()

    def _report(self) -> None:
        sys.stderr.write(f"kit stopped after {self.started} start\n")
        sys.stderr.flush()


def make_kits() -> dict[str, CountingKit]:
    """Create the kits of the layout, by prefix."""
    if os.environ["LAYOUT"] == "root":
        return {"": CountingKit(os.environ["PROJKIT_DATABASE_URL"])}
    return {  # the longer prefix first: BlackSheep takes /kit2 for a path below /kit
        "/kit2": CountingKit(os.environ["SECOND_DATABASE_URL"]),
        "/kit": CountingKit(os.environ["PROJKIT_DATABASE_URL"]),
    }


def wrapped(app: Any, kits: dict[str, CountingKit]) -> Any:
    """Wrap a host without mounts in the kits."""
    for prefix, kit in kits.items():
        app = kit.wrap(app, prefix=prefix)
    return app


@asynccontextmanager
async def lifespans(kits: dict[str, CountingKit]) -> AsyncIterator[None]:
    """Run the lifespan of every kit."""
    async with AsyncExitStack() as stack:
        for kit in kits.values():
            await stack.enter_async_context(kit.lifespan())
        yield


def starlette(kits: dict[str, CountingKit]) -> Any:
    """Mount the kits in Starlette."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(HELLO)

    async def broken(request: Request) -> PlainTextResponse:
        raise ValueError("broken")

    async def handled(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(f"the host's handler: {error}", 418)

    async def unknown(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(UNKNOWN, 404)

    return Starlette(
        routes=[
            Route("/host/hello", hello),
            Route("/host/broken", broken),
            *(Mount(prefix or "/", kit) for prefix, kit in kits.items()),
        ],
        exception_handlers={ValueError: handled, 404: unknown},
        lifespan=lambda app: lifespans(kits),
    )


def fastapi(kits: dict[str, CountingKit]) -> Any:
    """Mount the kits in FastAPI."""
    from fastapi import FastAPI, Request
    from fastapi.responses import PlainTextResponse

    app = FastAPI(lifespan=lambda app: lifespans(kits))

    @app.get("/host/hello")
    async def hello() -> PlainTextResponse:
        return PlainTextResponse(HELLO)

    @app.get("/host/broken")
    async def broken() -> None:
        raise ValueError("broken")

    @app.exception_handler(ValueError)
    async def handled(request: Request, error: ValueError) -> PlainTextResponse:
        return PlainTextResponse(f"the host's handler: {error}", 418)

    @app.exception_handler(404)
    async def unknown(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(UNKNOWN, 404)

    for prefix, kit in kits.items():
        app.mount(prefix or "/", kit)
    return app


def litestar(kits: dict[str, CountingKit]) -> Any:
    """Mount the kits in Litestar; wrap it at the root, where a mount would hide the host's routes."""
    from litestar import Litestar, MediaType, Request, Response, asgi, get
    from litestar.exceptions import NotFoundException

    @get("/host/hello", media_type=MediaType.TEXT)
    async def hello() -> str:
        return HELLO

    @get("/host/broken", media_type=MediaType.TEXT)
    async def broken() -> str:
        raise ValueError("broken")

    def handled(request: Request[Any, Any, Any], error: ValueError) -> Response[str]:
        return Response(f"the host's handler: {error}", status_code=418, media_type=MediaType.TEXT)

    def unknown(request: Request[Any, Any, Any], error: NotFoundException) -> Response[str]:
        return Response(UNKNOWN, status_code=404, media_type=MediaType.TEXT)

    def mount(prefix: str, kit: ASGIApp) -> Any:
        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            await kit(scope, receive, send)

        return asgi(prefix, is_mount=True, copy_scope=True)(mounted)

    mounted = {"/kit": kits["/kit"]} if "/kit" in kits else {}
    app = Litestar(
        [hello, broken, *(mount(prefix, kit) for prefix, kit in mounted.items())],
        exception_handlers={ValueError: handled, NotFoundException: unknown},
        lifespan=[lambda app: lifespans(mounted)],
    )
    # Litestar takes /kit2 for a path below its mount at /kit, so that kit has to wrap the host.
    return wrapped(app, {prefix: kit for prefix, kit in kits.items() if prefix not in mounted})


def quart(kits: dict[str, CountingKit]) -> Any:
    """Wrap Quart."""
    from quart import Quart

    app = Quart(__name__)

    @app.get("/host/hello")
    async def hello() -> str:
        return HELLO

    @app.get("/host/broken")
    async def broken() -> str:
        raise ValueError("broken")

    @app.errorhandler(ValueError)
    async def handled(error: ValueError) -> tuple[str, int]:
        return f"the host's handler: {error}", 418

    @app.errorhandler(404)
    async def unknown(error: Exception) -> tuple[str, int]:
        return UNKNOWN, 404

    return wrapped(app, kits)


def django(kits: dict[str, CountingKit]) -> Any:
    """Wrap Django, whose ASGI application has no lifespan."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application

    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.hosts.django_urls",
        SECRET_KEY="of the tests",
        MIDDLEWARE=["tests.hosts.django_urls.Handled"],
    )
    django.setup()
    return wrapped(get_asgi_application(), kits)


def blacksheep(kits: dict[str, CountingKit]) -> Any:
    """Mount the kits in BlackSheep; wrap it at the root."""
    from blacksheep import Application, Request, Response, text

    app = Application()

    @app.router.get("/host/hello")
    async def hello() -> Response:
        return text(HELLO)

    @app.router.get("/host/broken")
    async def broken() -> Response:
        raise ValueError("broken")

    async def handled(self: Any, request: Request, error: Exception) -> Response:
        return text(f"the host's handler: {error}", 418)

    async def unknown(self: Any, request: Request, error: Exception) -> Response:
        return text(UNKNOWN, 404)

    app.exceptions_handlers[ValueError] = handled
    app.exceptions_handlers[404] = unknown
    if os.environ["LAYOUT"] != "siblings":
        return wrapped(app, kits)
    for prefix, kit in kits.items():
        app.mount(prefix, kit)

        async def start(_: Any, kit: CountingKit = kit) -> None:
            await kit.startup()

        async def stop(_: Any, kit: CountingKit = kit) -> None:
            await kit.shutdown()

        app.on_start += start
        app.on_stop += stop
    return app


def bare(kits: dict[str, CountingKit]) -> Any:
    """Wrap an ASGI function."""

    async def host(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        pages = {"/host/hello": (200, HELLO), "/host/broken": (418, HANDLED)}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        status, body = pages.get(path, (404, UNKNOWN))
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
        )
        await send({"type": "http.response.body", "body": body.encode()})

    return wrapped(host, kits)


HOSTS: dict[str, Callable[[dict[str, CountingKit]], Any]] = {
    each.__name__: each for each in (starlette, fastapi, litestar, quart, django, blacksheep, bare)
}


def create_app() -> Any:
    """Create the application that the environment selects."""
    host = HOSTS[os.environ["HOST"]]
    if os.environ["LAYOUT"] == "guarded":
        kit = CountingKit(os.environ["PROJKIT_DATABASE_URL"])
        return kit.wrap(host({}), prefix="/kit", auth=RULES)
    return host(make_kits())
