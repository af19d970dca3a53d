"""``/metrics`` in Prometheus' formats: as a route of the kit, and as an ASGI app of its own for another port."""

import asyncio
import gzip
from typing import Final

from prometheus_client.exposition import gzip_accepted
from starlette.types import Receive, Scope, Send

from projkit.http.denial import deny
from projkit.http.request import Request
from projkit.http.response import NO_STORE, Header, Response
from projkit.http.routing import AllowsAnonymous, Endpoint, ResponseSpec
from projkit.telemetry.exposition import KitRegistry, render

_ALLOWED: Final[Header] = (b"allow", b"GET, HEAD, OPTIONS")


async def metrics_response(registry: KitRegistry, accept: str, accept_encoding: str) -> Response:
    """Return all metrics in the format and encoding that the headers of these names prefer."""
    body, content_type = await render(registry, accept)
    headers: tuple[Header, ...] = (
        (b"content-type", content_type.encode()),
        NO_STORE,
        (b"vary", b"Accept, Accept-Encoding"),
    )
    if gzip_accepted(accept_encoding):
        # In a thread, since zlib releases the interpreter lock.
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers = (*headers, (b"content-encoding", b"gzip"))
    return Response(200, body, headers)


def endpoints(path: str, registry: KitRegistry, allows_anonymous: AllowsAnonymous) -> list[Endpoint]:
    """Return the scrape endpoint, for callers with the scope ``metrics:read`` or accepted by ``allows_anonymous``."""

    async def metrics(request: Request) -> Response:
        return await metrics_response(
            registry, request.header(b"accept") or "", request.header(b"accept-encoding") or ""
        )

    return [
        Endpoint(
            method="GET",
            path=path,
            handler=metrics,
            operation_id="getMetrics",
            summary="Get the metrics in Prometheus format",
            tag="telemetry",
            responses={
                200: ResponseSpec(
                    "The metrics, in the format that `Accept` prefers.",
                    {"type": "string"},
                    "text/plain",
                    ("Vary",),
                    alternatives={"application/openmetrics-text": {"type": "string"}},
                )
            },
            scope="metrics:read",
            allows_anonymous=allows_anonymous,
            standalone=True,
        )
    ]


class MetricsApp:
    """An ASGI app that responds with the metrics at every path, for a port of its own.

    It requires no credentials, so access is controlled by who can reach the port. It records nothing, and its lifespan
    starts and stops nothing.
    """

    def __init__(self, registry: KitRegistry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        elif scope["type"] == "http":
            response = await self._respond(scope)
            await response.send(send, head=scope["method"] == "HEAD")
        elif scope["type"] == "websocket":
            await deny(Response(404), scope, receive, send)

    async def _respond(self, scope: Scope) -> Response:
        if scope["method"] == "OPTIONS":
            return Response(204, headers=(_ALLOWED,))
        if scope["method"] not in {"GET", "HEAD"}:
            return Response(405, headers=(_ALLOWED,))
        accept, encoding = (
            b", ".join(value for name, value in scope["headers"] if name == wanted).decode("latin-1")
            for wanted in (b"accept", b"accept-encoding")
        )
        return await metrics_response(self._registry, accept, encoding)
