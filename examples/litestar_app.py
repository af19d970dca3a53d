"""projkit in Litestar: ``uvicorn litestar_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from typing import Any

from litestar import Litestar, Request, asgi, get
from litestar.types import Receive, Scope, Send

from projkit import ProjKit
from projkit.hosts.litestar import require_scopes

kit = ProjKit()  # settings from PROJKIT_* variables; opens nothing yet


@get("/")
async def home() -> dict[str, str]:
    """A page of the app's own."""
    return {"page": "the host's own"}


# Who may read projects may read this too: the kit's tokens and cookies open it. It works for WebSockets alike.
@get("/whoami", guards=[require_scopes(kit, "projects:read")])
async def whoami(request: Request[Any, Any, Any]) -> dict[str, str]:
    """A guarded page of the app's own."""
    return {"subject": request.user.subject}


@asgi("/kit", is_mount=True, copy_scope=True)
async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
    """Litestar mounts functions; this one is the kit."""
    await kit(scope, receive, send)  # type: ignore[arg-type]


app = Litestar([home, whoami, mounted], lifespan=[kit.lifespan])
