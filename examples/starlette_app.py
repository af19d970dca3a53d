"""projkit in Starlette: ``uvicorn starlette_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from projkit import ProjKit
from projkit.hosts.starlette import require_scopes

kit = ProjKit()  # settings from PROJKIT_* variables; opens nothing yet


async def home(request: Request) -> JSONResponse:
    """A page of the app's own."""
    return JSONResponse({"page": "the host's own"})


# Who may read projects may read this too: the kit's tokens and cookies open it. It works for WebSockets alike.
@require_scopes(kit, "projects:read")
async def whoami(request: Request) -> JSONResponse:
    """A guarded page of the app's own."""
    return JSONResponse({"subject": request.user.subject})


# Starlette does not run the lifespan of what is mounted in it, so the kit's is given to the app.
app = Starlette(
    routes=[Route("/", home), Route("/whoami", whoami), Mount("/kit", kit)], lifespan=kit.lifespan
)
