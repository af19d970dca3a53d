"""Probes: is the process alive, and should it be sent requests."""

from collections.abc import Callable
from typing import Final

from pydantic import BaseModel

from projkit.http.request import Request
from projkit.http.response import JSON_TYPE, NO_STORE, Response
from projkit.http.routing import Answer, Endpoint

_OK: Final = Response(200, b'{"status":"ok"}', (JSON_TYPE, NO_STORE))
_ERROR: Final = Response(503, b'{"status":"error"}', (JSON_TYPE, NO_STORE, (b"retry-after", b"1")))


class Probe(BaseModel):
    """The state of one probe."""

    status: str


def endpoints(prefix: str, is_ready: Callable[[], bool]) -> list[Endpoint]:
    """``/health/live`` and ``/health/ready``; neither waits for anything."""

    async def live(_: Request) -> Response:
        return _OK

    async def ready(_: Request) -> Response:
        return _OK if is_ready() else _ERROR

    return [
        Endpoint(
            "GET", f"{prefix}/health/live", live, "getLiveness", "Is the process alive?", "health",
            {200: Answer("It is.", Probe)}, public=True, standalone=True,
        ),
        Endpoint(
            "GET", f"{prefix}/health/ready", ready, "getReadiness", "Should it be sent requests?", "health",
            {200: Answer("It should.", Probe),
             503: Answer("It starts or drains.", Probe, headers=("Retry-After",))}, public=True, standalone=True,
        ),
    ]  # fmt: skip
