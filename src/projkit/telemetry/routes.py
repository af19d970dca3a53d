"""``/metrics`` in Prometheus' formats: among the kit's routes, and as an app of its own for another port."""

import asyncio
import gzip
from typing import Final

from prometheus_client.exposition import gzip_accepted
from starlette.types import Receive, Scope, Send

from projkit.http.denial import deny
from projkit.http.request import Request
from projkit.http.response import NO_STORE, Header, Response
from projkit.http.routing import Admits, Answer, Endpoint
from projkit.telemetry.exposition import KitRegistry, render

_ALLOWED: Final[Header] = (b"allow", b"GET, HEAD, OPTIONS")


async def scrape(registry: KitRegistry, accept: str, accept_encoding: str) -> Response:
    """All series, as the headers of these names want them."""
    body, content_type = await render(registry, accept)
    headers: tuple[Header, ...] = (
        (b"content-type", content_type.encode()),
        NO_STORE,
        (b"vary", b"Accept, Accept-Encoding"),
    )
    if gzip_accepted(accept_encoding):
        # In a thread: zlib lets go of the interpreter.
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers = (*headers, (b"content-encoding", b"gzip"))
    return Response(200, body, headers)


def endpoints(path: str, registry: KitRegistry, admits: Admits) -> list[Endpoint]:
    """The scrape endpoint, for the scope ``metrics:read`` or whom ``admits`` lets in."""

    async def metrics(request: Request) -> Response:
        return await scrape(
            registry, request.header(b"accept") or "", request.header(b"accept-encoding") or ""
        )

    return [
        Endpoint(
            method="GET",
            path=path,
            handler=metrics,
            operation_id="getMetrics",
            summary="Metrics for Prometheus",
            tag="telemetry",
            answers={
                200: Answer(
                    "The series.",
                    {"type": "string"},
                    "text/plain",
                    ("Vary",),
                    others={"application/openmetrics-text": {"type": "string"}},
                )
            },
            scope="metrics:read",
            admits=admits,
            standalone=True,
        )
    ]


class MetricsApp:
    """The scrape at every path, as an ASGI app for a port of its own; asks for no credentials, counts nothing.

    Whoever opens the port decides who reaches it. Its lifespan starts and stops nothing.
    """

    def __init__(self, registry: KitRegistry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        elif scope["type"] == "http":
            response = await self._answer(scope)
            await response.send(send, head=scope["method"] == "HEAD")
        elif scope["type"] == "websocket":
            await deny(Response(404), scope, receive, send)

    async def _answer(self, scope: Scope) -> Response:
        if scope["method"] == "OPTIONS":
            return Response(204, headers=(_ALLOWED,))
        if scope["method"] not in {"GET", "HEAD"}:
            return Response(405, headers=(_ALLOWED,))
        accept, encoding = (
            b", ".join(value for name, value in scope["headers"] if name == wanted).decode("latin-1")
            for wanted in (b"accept", b"accept-encoding")
        )
        return await scrape(self._registry, accept, encoding)
