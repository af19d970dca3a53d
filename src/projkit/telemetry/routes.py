"""``/metrics`` in Prometheus' formats."""

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from projkit.http.request import Request
from projkit.http.response import NO_STORE, Response
from projkit.http.routing import Admits, Answer, Endpoint


def endpoints(path: str, registry: CollectorRegistry, admits: Admits) -> list[Endpoint]:
    """The scrape endpoint, for the scope ``metrics:read`` or whom ``admits`` lets in."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.header(b"accept") or "")
        return Response(200, encode(registry), ((b"content-type", content_type.encode()), NO_STORE))

    return [
        Endpoint(
            "GET", path, metrics, "getMetrics", "Metrics for Prometheus", "telemetry",
            {200: Answer("The series.", {"type": "string"}, "text/plain")}, scope="metrics:read",
            admits=admits, standalone=True,
        )
    ]  # fmt: skip
