"""The route of a request includes the mount of its kit, so that host and kits never share a name."""

import itertools
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, Convertor
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route

from projkit import ProjKit
from projkit.telemetry.endpoint_stats import stats_by_endpoint
from projkit.telemetry.recorder import Recorder
from projkit.testing.internals import Internals
from tests.asgi import Message, call, http_scope
from tests.auth.asgi_client import ask
from tests.conftest import settings_for, token_for
from tests.telemetry.test_traces import Spans

pytestmark = pytest.mark.anyio
PROJECTS = "/api/v1/projects"
PERFORMANCE = "/api/v1/monitoring/metrics/performance"
LIVE = "/api/v1/health/live"
UUID = "0199a3f2-6c1e-7b4a-9d0e-3f5a8c2b7e61"
COUNT = "projkit_http_server_request_duration_seconds_count"
INFO = "projkit_http_server_route_info"


async def hello(request: Request) -> PlainTextResponse:
    """Respond with a greeting."""
    return PlainTextResponse("hello")


def host(*routes: BaseRoute) -> Starlette:
    """Return a host with a path that the kit has, too."""
    return Starlette(routes=[Route(PROJECTS, hello), *routes])


def samples(kit: ProjKit, name: str, label: str) -> dict[str, Any]:
    """Return a label of a metric's samples by route."""
    found = (sample for metric in kit.registry.collect() for sample in metric.samples)
    return {sample.labels["route"]: sample.labels[label] for sample in found if sample.name == name}


async def get(app: Any, paths: Iterable[str], **scope: Any) -> None:
    """Request paths, with these members of the scope."""
    for path in paths:
        await call(app, http_scope(path, **scope), {"type": "http.request", "body": b"", "more_body": False})


async def test_host_and_kit_with_the_same_path(sqlite_url: str) -> None:
    """Metrics and monitoring tell the kit's route from the host's, and only the kit's has a kind."""
    kit = ProjKit(settings_for(sqlite_url))
    app = kit.wrap(host(Mount("/kit", kit)), prefix="/other")
    token = token_for(kit.settings, "alice", ("monitoring:read",))
    async with kit.lifespan():
        await get(app, [PROJECTS, f"/kit{PROJECTS}", f"/other{LIVE}"])
        report = (await ask(app, "GET", f"/kit{PERFORMANCE}", [("authorization", f"Bearer {token}")])).json()
    assert samples(kit, COUNT, "status") == {
        PROJECTS: "200", f"/kit{PROJECTS}": "401", f"/other{LIVE}": "200", f"/kit{PERFORMANCE}": "200",
    }  # fmt: skip
    assert samples(kit, INFO, "kind") == {
        f"/kit{PROJECTS}": "projects", f"/other{LIVE}": "probe", f"/kit{PERFORMANCE}": "monitoring",
    }  # fmt: skip
    endpoints = {each["route"]: (each["kind"], each["target_ms"]) for each in report["endpoints"]}
    assert endpoints == {
        PROJECTS: (None, 40), f"/kit{PROJECTS}": ("projects", 40), f"/other{LIVE}": ("probe", 10),
    }  # fmt: skip


async def test_two_kits(sqlite_url: str) -> None:
    """Two kits of a process record their own requests, each below its mount."""
    one, two = (ProjKit(settings_for(sqlite_url)) for _ in range(2))
    app = one.wrap(host(Mount("/one", one), Mount("/two", two)), prefix="/outer")
    await get(app, [f"/one{LIVE}", f"/two{LIVE}", f"/two{LIVE}/", PROJECTS])
    assert set(samples(one, COUNT, "route")) == {f"/one{LIVE}", PROJECTS}
    assert set(samples(two, COUNT, "route")) == {f"/two{LIVE}", "__unknown__"}


@pytest.mark.parametrize(
    ("path", "root_path"), [(LIVE, "/proxy"), (f"/proxy{LIVE}", "/proxy"), (f"{LIVE}", "/proxy/kit")]
)
async def test_prefix_of_a_proxy(sqlite_url: str, path: str, root_path: str) -> None:
    """Metrics and traces include the prefix that a proxy has stripped, if the server was told of it."""
    spans = Spans()
    kit = ProjKit(settings_for(sqlite_url), tracer_provider=spans.provider)
    caller = [(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    await get(kit, [path], root_path=root_path)
    await get(kit, [path], root_path=root_path, headers=caller)
    assert samples(kit, COUNT, "status") == {f"{root_path}{LIVE}": "200"}
    assert (spans.server().attributes or {})["http.route"] == f"{root_path}{LIVE}"


@pytest.mark.parametrize(
    ("template", "paths"),
    [
        ("/{tenant}/kit", ["/a/kit", "/b/kit", "/kit/kit"]),
        ("/of/{number:int}", ["/of/1", "/of/2", *(f"/of/{'0' * zeros}7" for zeros in range(20))]),
        ("/of/{number:float}", [f"/of/7.5{'0' * zeros}" for zeros in range(20)]),
        (
            "/{id:uuid}/kit",
            [f"/{each}/kit" for each in (UUID, UUID.upper(), UUID.title(), UUID.replace("b", "B"))],
        ),
        ("/{rest:path}/kit", ["/a/b/kit", "/c/kit"]),
    ],
)
async def test_mounts_with_parameters(sqlite_url: str, template: str, paths: list[str]) -> None:
    """A mount with parameters is one prefix, whatever their values."""
    kit = ProjKit(settings_for(sqlite_url))
    await get(host(Mount("/sub", host(Mount(template, kit)))), [f"/sub{path}{LIVE}" for path in paths])
    (route,) = samples(kit, COUNT, "status")
    assert route == f"/sub{re.sub(':[a-z]+', '', template)}{LIVE}"


class Size(Enum):
    """Sizes, which clients may write in any case."""

    SMALL = "small"


class SizeConvertor(Convertor[Size]):
    """A converter of a host, whose values cannot be created from what clients write."""

    regex = "[A-Za-z]+"

    def convert(self, value: str) -> Size:
        """Return the size."""
        return Size(value.lower())

    def to_string(self, value: Size) -> str:
        """Return the size as text."""
        return value.value


async def test_converters_of_the_host(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spellings that a converter of the host makes equal use up no prefixes, so that other mounts keep theirs."""
    monkeypatch.setitem(CONVERTOR_TYPES, "size", SizeConvertor())
    kit = ProjKit(settings_for(sqlite_url))
    app = host(Mount("/main/kit", kit), Mount("/{size:size}/kit", kit))
    spellings = {"".join(letters) for letters in itertools.product("sS", "mM", "aA", "lL", "lL")}
    await get(app, [f"/{each}/kit{LIVE}" for each in sorted(spellings)])
    await get(app, [f"/main/kit{LIVE}"])
    assert samples(kit, COUNT, "status").keys() == {
        f"/__unknown__{LIVE}",
        f"/{{size}}/kit{LIVE}",
        f"/main/kit{LIVE}",
    }


async def test_mounts_without_names(sqlite_url: str) -> None:
    """If a host's router does not name the parameters of a mount, the number of prefixes is limited."""
    kit = ProjKit(settings_for(sqlite_url))
    for number in range(200):
        await get(kit, [f"/{number}{LIVE}"], root_path=f"/{number}")
    await get(kit, [f"/{'x' * 500}{LIVE}"], root_path=f"/{'x' * 500}")
    routes = samples(kit, COUNT, "status")
    assert len(routes) == 17
    assert f"/__unknown__{LIVE}" in routes
    assert len(Internals(kit).recorder.route_kinds) == 17


async def test_disconnects_of_probes(sqlite_url: str) -> None:
    """A client that disconnects during a probe is recorded below the mount, too."""
    kit = ProjKit(settings_for(sqlite_url))

    async def send(_: Message) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await kit(http_scope(f"/kit{LIVE}", root_path="/kit"), None, send)  # type: ignore[arg-type]
    assert list(stats_by_endpoint(Internals(kit).recorder.read())) == [("GET", f"/kit{LIVE}")]


def test_kinds_of_other_workers(tmp_path: Path) -> None:
    """A worker knows the kinds of routes that only others have served: their 503 is no error."""
    one, two = Recorder(tmp_path), Recorder()
    two.path = tmp_path
    for recorder, route, kind in ((one, "/kit/ready", "probe"), (two, "/kit/projects", "projects")):
        recorder.route_kinds = {route: kind}
        recorder.record_request("GET", route, 503, 0.001)
    for recorder in (one, two):
        errors = {route: each.errors for (_, route), each in recorder.endpoints().items()}
        assert errors == {"/kit/ready": 0, "/kit/projects": 1}
