"""Access lines and what they contain, whatever formats them."""

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from projkit import ProjKit
from tests.auth.asgi_client import ask
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
LIVE, READY, URL = "/api/v1/health/live", "/api/v1/health/ready", "/api/v1/projects"


def access(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    """Return route and status of the access lines."""
    return [
        (record.__dict__["route"], record.__dict__["status"])
        for record in caplog.records
        if record.name == "projkit.access"
    ]


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("mount", ["", "/kit"])
async def test_probes_and_scrapes(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, wanted: bool, mount: str
) -> None:
    """Probes and scrapes get access lines only if a setting asks for them; an unexpected status always does."""
    caplog.set_level(logging.INFO, "projkit.access")
    kit = ProjKit(settings_for(sqlite_url, access_log_probes=wanted))
    app: Any = Starlette(routes=[Mount(mount, kit)]) if mount else kit
    async with kit.lifespan():
        for method, path in (
            ("GET", LIVE),
            ("HEAD", READY),
            ("GET", "/metrics"),
            ("POST", LIVE),
            ("GET", URL),
        ):
            await ask(app, method, mount + path)
        kit.drain()
        await ask(app, "GET", mount + READY)
    quiet = [(LIVE, 200), (READY, 200)]
    shown = [("/metrics", 401), (LIVE, 405), (URL, 401)]
    expected = [*quiet, *shown, (READY, 503)] if wanted else shown
    assert access(caplog) == [(mount + route, status) for route, status in expected]


@pytest.mark.parametrize(
    ("settings", "client"),
    [
        ({}, None),
        ({"log_client_address": True}, "192.0.2.1"),
        ({"log_client_address": True, "trusted_proxies": ["192.0.2.0/24"]}, "203.0.113.9"),
    ],
)
async def test_client_address(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], client: str | None
) -> None:
    """All lines about a request have the client's address if a setting asks for it, as trusted proxies report it."""
    caplog.set_level(logging.INFO, "projkit.access")

    async def broken(_: Request) -> PlainTextResponse:
        return PlainTextResponse("slow")

    def get_principal(_: Any) -> None:
        raise LookupError

    kit = ProjKit(
        settings_for(sqlite_url, slow_request_seconds=1e-9, **settings), get_principal=get_principal
    )
    app = kit.wrap(Starlette(routes=[Route("/host", broken)]))
    async with kit.lifespan():
        for path in (URL, "/host"):
            await ask(app, "GET", path, [("x-forwarded-for", "203.0.113.9")], address="192.0.2.1")
    lines = [
        each for each in caplog.records if each.name in {"projkit.access", "projkit.slow"} or each.exc_info
    ]
    assert sorted(each.name for each in lines) == [
        "projkit",
        "projkit.access",
        "projkit.slow",
        "projkit.slow",
    ]
    assert {each.__dict__.get("client") for each in lines} == {client}


async def test_absent_values(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A line without a trace has no field for it, and a line with one has."""
    caplog.set_level(logging.INFO, "projkit.access")
    kit = ProjKit(settings_for(sqlite_url, slow_request_seconds=1e-9))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with kit.lifespan():
        await ask(kit, "GET", URL)
        await ask(kit, "GET", URL, [("traceparent", f"00-{trace}-00f067aa0ba902b7-01")])
    records = [each for each in caplog.records if each.name in {"projkit.access", "projkit.slow"}]
    assert [each.__dict__.get("trace_id") for each in records] == [None, None, trace, trace]
    assert ["trace " in each.message for each in records if each.name == "projkit.slow"] == [False, True]
