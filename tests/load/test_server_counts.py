"""The cross-check of the load suites finds the server's counts wherever the kit is mounted."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest

from projkit.telemetry.collector import RecorderCollector
from projkit.telemetry.exposition import KitRegistry, render
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.snapshot import KitInfo

pytestmark = pytest.mark.anyio
ROUTE = "/api/v1/projects"


@pytest.mark.parametrize(
    ("mount", "served"),
    [("", ROUTE), ("/kit", f"/kit{ROUTE}"), ("/kit", ROUTE), ("", f"/proxy/kit{ROUTE}")],
    ids=["served alone", "mounted", "behind a proxy that strips", "behind a proxy that adds"],
)
async def test_server_counts(support: Callable[[str], ModuleType], mount: str, served: str) -> None:
    """The kit's requests are found by their route, and the host's of the same path are left out."""
    server, stats = support("server"), support("stats")
    recorder = Recorder()
    recorder.route_kinds = {served: "projects"}
    scrapes = []
    for requests in (2, 3):
        for _ in range(requests):
            recorder.record_request("GET", served, 200, 0.01)
            recorder.record_request("GET", f"/host{ROUTE}", 200, 0.5)
        text, _ = await render(KitRegistry(RecorderCollector(recorder, KitInfo("1"))), "")
        scrapes.append(replace(server.read(text.decode()), mount=mount))
    row = stats.EndpointStats("GET", ROUTE)
    for _ in range(3):
        row.service.add(0.012)
    (compared,) = server.compare([row], *scrapes)
    assert (compared.client_count, compared.server_count) == (3, 3)
    assert compared.server_ms == pytest.approx(10)
