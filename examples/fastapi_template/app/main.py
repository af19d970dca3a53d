"""The application: ``uvicorn app.main:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from app.api import router
from app.db import engine
from app.kit import kit
from app.metrics import count_requests, get_metrics
from app.settings import settings
from projkit.monitoring import PerformanceMiddleware


class Service(FastAPI):
    """An application whose OpenAPI document contains the kit's."""

    def openapi(self) -> dict[str, Any]:
        """Return one document for both."""
        document = dict(super().openapi())
        kit_document = kit.openapi("/kit", name_prefix="projkit_")
        kinds = document["components"] | kit_document["components"]
        document["components"] = {
            kind: document["components"].get(kind, {}) | kit_document["components"].get(kind, {})
            for kind in kinds
        }
        return document | {
            "paths": document["paths"] | kit_document["paths"],
            "tags": [*document.get("tags", []), *kit_document["tags"]],
        }


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the kit; at the end, close the connections."""
    async with kit.lifespan(app):
        yield
    await engine.dispose()


app = Service(title="Service", lifespan=lifespan)
app.middleware("http")(count_requests)
app.add_middleware(PerformanceMiddleware, kit=kit)
app.add_middleware(
    CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts)
app.include_router(router)
app.add_api_route("/metrics", get_metrics, include_in_schema=False)
app.mount("/kit", kit)
