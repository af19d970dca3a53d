"""On real servers a host behind the kit learns that its client has disconnected, and gets every message."""

import base64
import os
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.hosts.conftest import Served, started

SERVERS = ("uvicorn", "granian", "hypercorn", "daphne")
LAYOUTS = ("wrapped", "middleware", "inside")


@pytest.fixture(
    scope="module", params=[(server, layout) for server in SERVERS for layout in LAYOUTS], ids="-".join
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A host on a server."""
    server, layout = request.param
    directory = tmp_path_factory.mktemp(server)
    variables = {"LAYOUT": layout, "PROJKIT_DATABASE_URL": f"sqlite:///{directory}/projkit.db"}
    with started(server, "tests.hosts.streaming_app:app", directory, "/status", variables) as served:
        yield served


def connected(served: Served, request: str) -> socket.socket:
    """Open a connection and send a request."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(f"{request}\r\nHost: {host}:{port}\r\n".encode())
    return connection


def wait_for(served: Served, running: list[str]) -> None:
    """Wait until the host runs exactly this."""
    deadline = time.monotonic() + 20
    while (found := httpx2.get(served.url + "/status", timeout=20).json()) != running:
        assert time.monotonic() < deadline, f"{found} run, not {running}"
        time.sleep(0.05)


@pytest.mark.parametrize("page", ["stream", "patient"])
def test_clients_that_leave(served: Served, page: str) -> None:
    """Three endless responses end after their clients have disconnected."""
    clients = [connected(served, f"GET /{page} HTTP/1.1") for _ in range(3)]
    for client in clients:
        client.sendall(b"\r\n")
    wait_for(served, [page] * 3)
    time.sleep(0.2)
    for client in clients:
        client.close()
    wait_for(served, [])


def test_clients_that_leave_before_the_response(served: Served) -> None:
    """A stream that begins after its client has disconnected ends as well."""
    with connected(served, "GET /stream HTTP/1.1") as client:
        client.sendall(b"\r\n")
        time.sleep(0.03)
    time.sleep(0.3)
    wait_for(served, [])


def test_the_end_of_a_web_socket(served: Served) -> None:
    """A host learns of the end of a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    with connected(served, "GET /chat HTTP/1.1") as client:
        client.sendall(
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: %b\r\n\r\n" % key.encode()
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        wait_for(served, ["chat"])
    wait_for(served, [])


def test_requests_without_a_body(served: Served) -> None:
    """A host that reads a request without a body after its response has started gets its only message."""
    for _ in range(3):
        answer = httpx2.post(served.url + "/late", timeout=20)
        assert answer.text == "http.request b'' False"
        assert answer.headers["x-request-id"]
