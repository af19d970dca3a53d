"""A kit works in every host, on every server, in every mount, and does not change the host."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from projkit import Settings
from tests.conftest import SECRET, token_for
from tests.hosts.apps import HANDLED, HELLO, HOSTS, UNKNOWN
from tests.hosts.conftest import SERVERS, Served, started
from tests.hosts.life import live

DOCUMENTS = {"fastapi": "/openapi.json", "litestar": "/schema/openapi.json"}


def environment(host: str, layout: str, directory: Path) -> dict[str, str]:
    """Return the environment of a host."""
    return {
        "HOST": host,
        "LAYOUT": layout,
        "PROJKIT_DATABASE_URL": f"sqlite:///{directory / 'first.db'}",
        "SECOND_DATABASE_URL": f"sqlite:///{directory / 'second.db'}",
    }


def start(
    server: str, host: str, layout: str, directory: Path, root_path: str = ""
) -> AbstractContextManager[Served]:
    """Run a host on a server."""
    variables = environment(host, layout, directory)
    return started(
        server, "tests.hosts.served_app:app", directory, "/host/hello", variables, root_path=root_path
    )


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """Return each server."""
    return str(request.param)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    """Return each host."""
    return str(request.param)


def check_host_is_unchanged(served: Served, host: str) -> None:
    """Check the host's pages, error handler, response for unknown paths and OpenAPI document."""
    with served.client() as client:
        for path, status, body in (
            ("/host/hello", 200, HELLO), ("/host/broken", 418, HANDLED), ("/host/nothing", 404, UNKNOWN),
        ):  # fmt: skip
            answer = client.get(path)
            assert (answer.status_code, answer.text) == (status, body)
            # Responses of a wrapped host are timed, once; those of a host that mounts the kit are not.
            assert len(answer.headers.get_list("x-process-time")) <= 1
        if host in DOCUMENTS:
            document = client.get(DOCUMENTS[host]).json()
            assert set(document["paths"]) == {"/host/hello", "/host/broken"}


def test_at_the_root(server: str, host: str, tmp_path: Path) -> None:
    """At ``/`` the kit serves its own paths; a wrapped host serves all others."""
    with start(server, host, "root", tmp_path) as served, served.client() as client:
        live(client, "")
        assert client.get("/host/hello").text == HELLO
        assert client.get("/host/broken").text == HANDLED


def test_beside_a_sibling(server: str, host: str, tmp_path: Path) -> None:
    """Two kits at ``/kit`` and ``/kit2`` coexist; each starts and stops once."""
    with start(server, host, "siblings", tmp_path) as served:
        with served.client() as client:
            client.post("/kit2/api/v1/projects", json={"name": "only in the second"})
            live(client, "/kit")
            (alone,) = client.get("/kit2/api/v1/projects").json()["items"]
            assert client.delete(f"/kit2/api/v1/projects/{alone['id']}").status_code == 204
            live(client, "/kit2")
        check_host_is_unchanged(served, host)
        assert served.stop() in {0, -15}
        assert served.log.count("kit stopped after 1 start") == 2, served.log
        assert "lifespan" not in served.log
        assert "Traceback" not in served.log.replace("ValueError: broken", "")
    assert not list(tmp_path.glob("*-wal"))


def test_behind_a_proxy_that_strips_a_prefix(server: str, host: str, tmp_path: Path) -> None:
    """Behind a proxy that strips ``/proxy`` every URL in a response begins with it."""
    # With uvicorn's --root-path BlackSheep looks for mounts in the whole raw path and finds none.
    layout = "wrapped" if host == "blacksheep" else "siblings"
    with start(server, host, layout, tmp_path, "/proxy") as served, served.client() as client:
        for prefix in ("/kit", "/kit2"):
            live(client, prefix, "/proxy")
        if host != "quart" or server == "uvicorn":  # Quart itself responds with 404 to a stripped path
            assert client.get("/host/hello").text == HELLO


# However hosts and servers interpret these, they must not reach the administrators' page.
TRICKS = [
    "/host//broken", "//host/broken", "/host/./broken", "/./host/broken", "/host/hello/../broken", "/host/x/../broken",
    "/host/hello/%2e%2e/broken", "/host/hello/..%2fbroken", "/host%2Fbroken", "/host/%62roken", "/host/%2562roken",
    "/HOST/BROKEN", "/Host/broken", "/host/broken/", "/host/broken//", "/host/broken;x", "/host;x/broken",
    "/host%5Cbroken", "\\host\\broken", "/host/broken%00", "/host/broken%20", "/host/broken%0a", "/host/broken?x",
    "http://127.0.0.1/host/broken", "http://127.0.0.1//host/broken", "host/broken", "/proxy/host/broken",
    "/proxyhost/broken", "/host/hello/proxy/host/broken", "/x/proxy/host/broken", "/proxy/proxy/host/broken",
    "/host/hello/%2570roxy/host/broken",
]  # fmt: skip


@pytest.mark.parametrize("root_path", ["", "/proxy"])
def test_guarded(server: str, host: str, root_path: str, tmp_path: Path) -> None:
    """The kit guards every host on every server; no spelling of a path bypasses the guard."""
    if root_path and host == "quart" and server != "uvicorn":
        root_path = ""  # Quart itself responds with 404 to a stripped path
    settings = Settings(secret=SECRET)
    tokens = {name: token_for(settings, "alice", (name,)) for name in ("projects:read", "admin")}
    with start(server, host, "guarded", tmp_path, root_path) as served:
        for path, token, status, said in (
            ("/host/hello", "", 200, HELLO), ("/host/hello", "x.y.z", 200, HELLO),
            ("/host/broken", "", 401, "missing_credentials"), ("/host/broken", "x.y.z", 401, "invalid_token"),
            ("/host/broken", tokens["projects:read"], 403, "insufficient_scope"),
            ("/host/broken", tokens["admin"], 418, HANDLED),
            ("/host/nothing", "", 401, "missing_credentials"), ("/host/nothing", tokens["admin"], 404, UNKNOWN),
            ("/kit/api/v1/health/live", "", 200, "ok"), ("/kit/api/v1/projects", "", 401, "missing_credentials"),
            ("/kit/api/v1/projects", tokens["projects:read"], 200, "items"),
        ):  # fmt: skip
            answer = served.raw_get(path, token).decode()
            assert answer.startswith(f"HTTP/1.1 {status} "), (path, answer)
            assert said in answer
        for target in TRICKS:
            for token in ("", tokens["projects:read"]):
                assert HANDLED.encode() not in served.raw_get(target, token), target
