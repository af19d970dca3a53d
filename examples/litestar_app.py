"""projkit in Litestar: ``uvicorn litestar_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from typing import Any

from litestar import Litestar, Request, asgi, get
from litestar.types import Receive, Scope, Send

from projkit import ProjKit
from projkit.hosts.litestar import require_scopes

kit = ProjKit()  # reads PROJKIT_* variables; opens nothing


@get("/")
async def home() -> dict[str, str]:
    """Serve a page of the host."""
    return {"page": "the host's own"}


# The kit's tokens and cookies authenticate this page. The guard also works on WebSockets.
@get("/whoami", guards=[require_scopes(kit, "projects:read")])
async def whoami(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Serve a page of the host that requires a scope."""
    return {"subject": request.user.subject}


@asgi("/kit", is_mount=True, copy_scope=True)
async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass requests on to the kit: Litestar mounts functions."""
    await kit(scope, receive, send)  # type: ignore[arg-type]


app = Litestar([home, whoami, mounted], lifespan=[kit.lifespan])
