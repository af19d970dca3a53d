"""Hosts whose routes use the guards for their framework; ``FRAMEWORK`` and ``VARIANT`` select one.

Every host has ``/me`` (requires authentication; GET and POST), ``/read`` and ``/both`` (require scopes), ``/open``,
``/unguarded`` (lists the projects of any caller), and an error handler that marks its responses. If the framework
supports WebSockets, there is one at ``/ws`` and one at ``/ws-admin`` that requires the scope ``admin``. The variant
``behind`` adds an AuthMiddleware.
"""

import os
from typing import Any

from projkit import ProjKit, Settings
from projkit.auth.middleware import PUBLIC

kit = ProjKit(
    Settings(
        legacy_secret=os.environ["LEGACY_SECRET"],
        legacy_sunset="2030-01-01T00:00:00Z",
        allowed_origins=["https://app.example.com"],
    )
)
BOTH = ("projects:read", "monitoring:read")


def fastapi() -> Any:
    """Guard FastAPI routes with dependencies."""
    from typing import Annotated

    from fastapi import Depends, FastAPI, HTTPException, Request, Security, WebSocket
    from fastapi.responses import JSONResponse

    from projkit import Principal
    from projkit.hosts.fastapi import current_principal, require_scopes

    app = FastAPI()

    @app.exception_handler(HTTPException)
    async def handled(request: Request, error: HTTPException) -> JSONResponse:
        headers = {**(error.headers or {}), "x-handled-by": "the host"}
        return JSONResponse({"handled": error.detail}, error.status_code, headers)

    @app.api_route("/me", methods=["GET", "POST"])
    async def me(principal: Annotated[Principal, Depends(current_principal(kit))]) -> str:
        return principal.subject

    @app.get("/read", dependencies=[Depends(current_principal(kit))])
    def read(
        principal: Annotated[Principal, Depends(require_scopes(kit, "projects:read"))], request: Request
    ) -> str:
        assert request.user == principal
        return principal.subject

    @app.get("/both")
    async def both(principal: Annotated[Principal, Security(current_principal(kit), scopes=BOTH)]) -> str:
        return principal.subject

    @app.get("/open")
    async def opened() -> str:
        return "open"

    @app.get("/unguarded")
    async def unguarded(request: Request) -> int:
        caller: Any = request.scope.get("user")
        return len((await kit.projects.list(caller)).items)

    @app.websocket("/ws")
    async def ws(
        websocket: WebSocket, principal: Annotated[Principal, Depends(require_scopes(kit, "projects:read"))]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(principal.subject)
        await websocket.close()

    @app.websocket("/ws-admin")
    async def ws_admin(
        websocket: WebSocket, principal: Annotated[Principal, Depends(require_scopes(kit, "admin"))]
    ) -> None:
        await websocket.accept()
        await websocket.close()

    return app


def starlette() -> Any:
    """Guard Starlette endpoints with decorators."""
    from starlette.applications import Starlette
    from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    from projkit.hosts.starlette import require_scopes

    async def handled(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = {**(error.headers or {}), "x-handled-by": "the host"}
        return JSONResponse({"handled": error.detail}, error.status_code, headers)

    class Me(HTTPEndpoint):
        @require_scopes(kit)
        async def get(self, request: Request) -> JSONResponse:
            return JSONResponse(request.user.subject)

        @require_scopes(kit)
        def post(self, request: Request) -> JSONResponse:
            return JSONResponse(request.user.subject)

    @require_scopes(kit, "projects:read")
    @require_scopes(kit)
    def read(request: Request) -> JSONResponse:
        return JSONResponse(request.user.subject)

    @require_scopes(kit, *BOTH)
    async def both(request: Request) -> JSONResponse:
        return JSONResponse(request.user.subject)

    async def opened(request: Request) -> JSONResponse:
        return JSONResponse("open")

    async def unguarded(request: Request) -> JSONResponse:
        caller: Any = request.scope.get("user")
        return JSONResponse(len((await kit.projects.list(caller)).items))

    @require_scopes(kit, "projects:read")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.user.subject)
        await websocket.close()

    class Admin(WebSocketEndpoint):
        @require_scopes(kit, "admin")
        async def on_connect(self, websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.close()

    return Starlette(
        routes=[
            Route("/me", Me),
            Route("/read", read),
            Route("/both", both),
            Route("/open", opened),
            Route("/unguarded", unguarded),
            WebSocketRoute("/ws", ws),
            WebSocketRoute("/ws-admin", Admin),
        ],
        exception_handlers={HTTPException: handled},
    )


def litestar() -> Any:
    """Guard Litestar handlers with guards."""
    from litestar import Litestar, Request, Response, WebSocket, get, route, websocket
    from litestar.enums import HttpMethod
    from litestar.exceptions import HTTPException

    from projkit.hosts.litestar import require_scopes

    def handled(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, str]]:
        headers = {**(error.headers or {}), "x-handled-by": "the host"}
        return Response({"handled": error.detail}, status_code=error.status_code, headers=headers)

    @route(
        "/me", http_method=[HttpMethod.GET, HttpMethod.POST], status_code=200, guards=[require_scopes(kit)]
    )
    async def me(request: Request[Any, Any, Any]) -> Response[str]:
        return Response(request.user.subject)

    @get("/read", guards=[require_scopes(kit), require_scopes(kit, "projects:read")])
    async def read(request: Request[Any, Any, Any]) -> Response[str]:
        return Response(request.user.subject)

    @get("/both", guards=[require_scopes(kit, *BOTH)])
    async def both(request: Request[Any, Any, Any]) -> Response[str]:
        return Response(request.user.subject)

    @get("/open")
    async def opened() -> Response[str]:
        return Response("open")

    @get("/unguarded")
    async def unguarded(request: Request[Any, Any, Any]) -> int:
        caller: Any = request.scope.get("user")
        return len((await kit.projects.list(caller)).items)

    @websocket("/ws", guards=[require_scopes(kit, "projects:read")])
    async def ws(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(socket.user.subject)
        await socket.close()

    @websocket("/ws-admin", guards=[require_scopes(kit, "admin")])
    async def ws_admin(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.close()

    return Litestar(
        [me, read, both, opened, unguarded, ws, ws_admin], exception_handlers={HTTPException: handled}
    )


def django() -> Any:
    """Guard Django views with the middleware and decorators."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application

    principal, sync_only = "projkit.hosts.django.PrincipalMiddleware", "tests.hosts.guarded_django.sync_only"
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.hosts.guarded_django",
        SECRET_KEY="of the tests",
        PROJKIT_KIT="tests.hosts.guarded_apps.kit",
        MIDDLEWARE={
            "decorators alone": [],
            "among sync middleware": [sync_only, principal, sync_only],
        }.get(os.environ["VARIANT"], [principal]),
    )
    django.setup()
    return get_asgi_application()


def create_app() -> Any:
    """Create the application that the environment selects."""
    app = {each.__name__: each for each in (fastapi, starlette, litestar, django)}[os.environ["FRAMEWORK"]]()
    return kit.wrap(app, prefix="/kit", auth={"/": PUBLIC} if os.environ["VARIANT"] == "behind" else None)


app = create_app() if "FRAMEWORK" in os.environ else None
