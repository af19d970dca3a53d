"""The hosts under test, as servers load them: ``HOST`` and ``LAYOUT`` in the environment say which.

Each host has a page of its own (``/host/hello``), an error handler of its own (``/host/broken``) and an answer of its
own for unknown paths. The layout ``root`` has one kit at ``/``; ``siblings`` has one at ``/kit`` and another, on a
database of its own, at ``/kit2``; ``wrapped`` has the same two, put around the host; in ``guarded`` the kit around the
host guards it: ``/host/hello`` is public, ``/host/broken`` is the administrators'.
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

UNKNOWN = "the host knows no such page"
HANDLED = "the host's handler: broken"
HELLO = "hello from the host"
RULES: PathRules = {"/host/hello": PUBLIC, "/host/broken": ("admin",)}


class CountingKit(ProjKit):
    """Tells how often it was started and stopped."""

    def __init__(self, database_url: str) -> None:
        super().__init__(Settings(database_url=database_url))
        self.started = 0

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Counts and tells."""
        self.started += 1
        async with super().lifespan(app):
            yield
        self._tell()

    async def startup(self) -> None:
        """Counts."""
        self.started += 1
        await super().startup()

    async def shutdown(self) -> None:
        """Tells."""
        await super().shutdown()
        self._tell()

    def _tell(self) -> None:
        sys.stderr.write(f"kit stopped after {self.started} start\n")
        sys.stderr.flush()


def make_kits() -> dict[str, CountingKit]:
    """The kits by prefix."""
    if os.environ["LAYOUT"] == "root":
        return {"": CountingKit(os.environ["PROJKIT_DATABASE_URL"])}
    return {  # the longer prefix first: to BlackSheep /kit2 looks as if it were below /kit
        "/kit2": CountingKit(os.environ["SECOND_DATABASE_URL"]),
        "/kit": CountingKit(os.environ["PROJKIT_DATABASE_URL"]),
    }


def wrapped(app: Any, kits: dict[str, CountingKit]) -> Any:
    """The kits around a host without mounts."""
    for prefix, kit in kits.items():
        app = kit.wrap(app, prefix=prefix)
    return app


@asynccontextmanager
async def lifespans(kits: dict[str, CountingKit]) -> AsyncIterator[None]:
    """Every kit's lifespan."""
    async with AsyncExitStack() as stack:
        for kit in kits.values():
            await stack.enter_async_context(kit.lifespan())
        yield


def starlette(kits: dict[str, CountingKit]) -> Any:
    """Mounts in Starlette."""
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
    """Mounts in FastAPI."""
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
    """Mounted in Litestar; at the root, where a mount would hide the host's own, the kit is put around it."""
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
    # To Litestar's mount at /kit the path /kit2 is below it, so the kit of that name must stand before.
    return wrapped(app, {prefix: kit for prefix, kit in kits.items() if prefix not in mounted})


def quart(kits: dict[str, CountingKit]) -> Any:
    """Put around Quart."""
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
    """Put around Django, whose ASGI app knows no lifespan."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application

    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF="tests.hosts.django_urls", SECRET_KEY="of the tests",
        MIDDLEWARE=["tests.hosts.django_urls.Handled"],
    )  # fmt: skip
    django.setup()
    return wrapped(get_asgi_application(), kits)


def blacksheep(kits: dict[str, CountingKit]) -> Any:
    """Mounts in BlackSheep; at the root the kit is put around it."""
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
    """Put around an ASGI function."""

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
    """The app that the environment asks for."""
    host = HOSTS[os.environ["HOST"]]
    if os.environ["LAYOUT"] == "guarded":
        kit = CountingKit(os.environ["PROJKIT_DATABASE_URL"])
        return kit.wrap(host({}), prefix="/kit", auth=RULES)
    return host(make_kits())
