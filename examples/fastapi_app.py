"""projkit in FastAPI: ``uvicorn fastapi_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI

from projkit import Principal, ProjKit
from projkit.hosts.fastapi import require_scopes

kit = ProjKit()  # settings from PROJKIT_* variables; opens nothing yet


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """FastAPI does not run the lifespan of what is mounted in it: enter the kit's in the app's own."""
    async with kit.lifespan():
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def home() -> dict[str, str]:
    """A page of the app's own."""
    return {"page": "the host's own"}


# Who may read projects may read this too: the kit's tokens and cookies open it, and it has its lock in /docs.
@app.get("/whoami")
async def whoami(
    principal: Annotated[Principal, Depends(require_scopes(kit, "projects:read"))],
) -> dict[str, str]:
    """A guarded page of the app's own."""
    return {"subject": principal.subject}


app.mount("/kit", kit)
