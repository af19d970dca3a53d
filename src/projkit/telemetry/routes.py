"""``/metrics`` in Prometheus' formats."""

import asyncio
import gzip

from prometheus_client.exposition import gzip_accepted

from projkit.http.request import Request
from projkit.http.response import NO_STORE, Header, Response
from projkit.http.routing import Admits, Answer, Endpoint
from projkit.telemetry.exposition import KitRegistry, render


def endpoints(path: str, registry: KitRegistry, admits: Admits) -> list[Endpoint]:
    """The scrape endpoint, for the scope ``metrics:read`` or whom ``admits`` lets in."""

    async def metrics(request: Request) -> Response:
        body, content_type = await render(registry, request.header(b"accept") or "")
        headers: tuple[Header, ...] = (
            (b"content-type", content_type.encode()), NO_STORE, (b"vary", b"Accept, Accept-Encoding"),
        )  # fmt: skip
        if gzip_accepted(request.header(b"accept-encoding") or ""):
            # In a thread: zlib lets go of the interpreter.
            body = await asyncio.to_thread(gzip.compress, body, 1)
            headers = (*headers, (b"content-encoding", b"gzip"))
        return Response(200, body, headers)

    return [
        Endpoint(
            "GET", path, metrics, "getMetrics", "Metrics for Prometheus", "telemetry",
            {200: Answer("The series.", {"type": "string"}, "text/plain", ("Vary",),
                         others={"application/openmetrics-text": {"type": "string"}})}, scope="metrics:read",
            admits=admits, standalone=True,
        )
    ]  # fmt: skip
