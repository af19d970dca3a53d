"""``kit.metrics_app``: the metrics on a port of their own."""

import gzip
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from projkit import ProjKit
from tests.asgi import call
from tests.auth.asgi_client import ask
from tests.conftest import serving, settings_for

pytestmark = pytest.mark.anyio
OPENMETRICS = "application/openmetrics-text"


@pytest.fixture
def kit(sqlite_url: str) -> ProjKit:
    """A production kit, whose metrics require credentials."""
    return ProjKit(settings_for(sqlite_url, env="production", secret="p" * 64))


def stable(text: str) -> list[str]:
    """Return the series that do not change between two scrapes."""
    moving = (
        "projkit_http_",
        "projkit_process_",
        "projkit_event_loop_",
        "projkit_health_",
        "projkit_worker_heartbeat_",
    )
    return [line for line in text.splitlines() if not line.startswith(moving)]


async def test_served(kit: ProjKit) -> None:
    """It returns the same as ``/metrics``, without credentials, at any path and with any query."""
    async with kit.lifespan():
        assert (await ask(kit, "GET", "/metrics")).status == 401
        with serving(kit.metrics_app) as url, httpx2.Client(base_url=url) as client:
            answers = [client.get(path) for path in ("/metrics", "/", "/api/v1/projects?x=1")]
            assert {answer.status_code for answer in answers} == {200}
            openmetrics = client.get("/", headers={"accept": OPENMETRICS})
    text = answers[0].text
    assert [stable(answer.text) for answer in answers] == [stable(text)] * 3
    families = {family.name for family in parse(text)}
    assert {"projkit_workers", "projkit_health_check_status"} <= families
    assert openmetrics.headers["content-type"].startswith(OPENMETRICS)
    assert openmetrics.text.endswith("# EOF\n")
    counted = {family.name: family.samples for family in parse(text)}
    requests = counted["projkit_http_server_request_duration_seconds"]
    assert {sample.labels["status"] for sample in requests} == {"401"}, "its own requests are not counted"


async def test_methods(kit: ProjKit) -> None:
    """HEAD returns the headers of GET; other methods get a 405 with ``Allow``."""
    head = await ask(kit.metrics_app, "HEAD", "/metrics")
    assert (head.status, head.body) == (200, b"")
    assert int(head.header("content-length") or "") > 1000
    packed = await ask(kit.metrics_app, "GET", "/metrics", [("accept-encoding", "gzip")])
    assert packed.header("content-encoding") == "gzip"
    assert b"projkit_build_info" in gzip.decompress(packed.body)
    for method, status in (("POST", 405), ("DELETE", 405), ("BREW", 405), ("OPTIONS", 204)):
        refused = await ask(kit.metrics_app, method, "/metrics", body=b"{}")
        assert (refused.status, refused.body) == (status, b"")
        assert refused.header("allow") == "GET, HEAD, OPTIONS"


async def test_before_the_kit_starts(kit: ProjKit) -> None:
    """It responds before the kit has started, and starts nothing."""
    assert (await ask(kit.metrics_app, "GET", "/")).status == 200
    assert not kit.ready


async def spoken(app: Any, scope: dict[str, Any], *received: str) -> list[str]:
    """Run an app with these messages and return the types of its own."""
    sent = await call(app, scope, *({"type": kind} for kind in received))
    return [message["type"] for message in sent]


async def test_lifespan_and_websockets(kit: ProjKit) -> None:
    """Its lifespan starts and stops nothing; a WebSocket is denied."""
    app = kit.metrics_app
    sent = await spoken(app, {"type": "lifespan"}, "lifespan.startup", "lifespan.shutdown")
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not kit.ready
    assert await spoken(app, {"type": "websocket"}, "websocket.connect") == ["websocket.close"]
    able = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
    assert (await spoken(app, able, "websocket.connect"))[0] == "websocket.http.response.start"


async def test_the_host_s_own_metrics(kit: ProjKit) -> None:
    """Metrics that the host registers in ``kit.registry`` are included."""
    from prometheus_client import Counter

    Counter("host_things", "Of the host's.", registry=kit.registry).inc(3)
    assert b"host_things_total 3.0" in (await ask(kit.metrics_app, "GET", "/")).body
