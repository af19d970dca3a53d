"""projkit in Starlette: ``uvicorn starlette_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from projkit import ProjKit
from projkit.hosts.starlette import require_scopes

kit = ProjKit()  # reads PROJKIT_* variables; opens nothing


async def home(request: Request) -> JSONResponse:
    """Serve a page of the host."""
    return JSONResponse({"page": "the host's own"})


# The kit's tokens and cookies authenticate this page. The decorator also works on WebSockets.
@require_scopes(kit, "projects:read")
async def whoami(request: Request) -> JSONResponse:
    """Serve a page of the host that requires a scope."""
    return JSONResponse({"subject": request.user.subject})


# Starlette does not run the lifespan of mounted applications, so the application gets the kit's.
app = Starlette(
    routes=[Route("/", home), Route("/whoami", whoami), Mount("/kit", kit)], lifespan=kit.lifespan
)
