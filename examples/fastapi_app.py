"""projkit in FastAPI: ``uvicorn fastapi_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI

from projkit import Principal, ProjKit
from projkit.hosts.fastapi import require_scopes

kit = ProjKit()  # reads PROJKIT_* variables; opens nothing


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the kit: FastAPI does not run the lifespan of mounted applications."""
    async with kit.lifespan():
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def home() -> dict[str, str]:
    """Serve a page of the host."""
    return {"page": "the host's own"}


# The kit's tokens and cookies authenticate this page, and /docs shows that it requires them.
@app.get("/whoami")
async def whoami(
    principal: Annotated[Principal, Depends(require_scopes(kit, "projects:read"))],
) -> dict[str, str]:
    """Serve a page of the host that requires a scope."""
    return {"subject": principal.subject}


app.mount("/kit", kit)
