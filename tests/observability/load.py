"""Requests to a server, counted here as the server should count them."""

import itertools
import socket
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import httpx2

from tests.auth.forge import legacy
from tests.faults.conftest import headers
from tests.faults.fault_scenario import PASSWORD, bearer

PROJECTS: Final = "/api/v1/projects"
PROJECT: Final = "/api/v1/projects/{project_id}"
AUTH: Final = "/api/v1/auth"
LIVE: Final = "/api/v1/health/live"


class Load:
    """A client of a server, with its counts by labels."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client
        self._numbers = itertools.count()
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.logins: Counter[tuple[str, str]] = Counter()
        self.refreshes: Counter[tuple[str]] = Counter()
        self.credentials: Counter[tuple[str, str, str]] = Counter()

    def request(
        self, method: str, path: str, expected: int, *,
        route: str = "", by: tuple[str, str] | None = None, **options: Any,
    ) -> httpx2.Response:  # fmt: skip
        """Send a request and count it; ``by`` is the transport and format of its credential, if it has one."""
        self._client.cookies.clear()
        response = self._client.request(method, path, **options)
        assert response.status_code == expected, response.text
        self.requests[(method, route or path.partition("?")[0], str(expected))] += 1
        if by is not None:
            self.credentials[(*by, "refused" if expected == 401 else "accepted")] += 1
        return response

    def round(self) -> None:
        """Send reads, writes, invalid requests, logins, refreshes and probes."""
        alice, plain = headers(), ("bearer", "enhanced")
        name = f"Project {next(self._numbers)}"
        for _ in range(5):
            made = self.request("POST", PROJECTS, 201, by=plain, headers=alice, json={"name": name}).json()
            one = f"{PROJECTS}/{made['id']}"
            self.request("GET", one, 200, route=PROJECT, by=plain, headers=alice)
            self.request("PATCH", one, 200, route=PROJECT, by=plain, headers=alice, json={"status": "active"})
            self.request("GET", f"{PROJECTS}?limit=5", 200, by=plain, headers=alice)
        self.request("DELETE", one, 204, route=PROJECT, by=plain, headers=alice)
        self.request("GET", one, 404, route=PROJECT, by=plain, headers=alice)
        self.request("GET", "/nowhere", 404, route="__unknown__")
        self.request("GET", PROJECTS, 401)
        self.request("GET", PROJECTS, 401, by=("bearer", "unknown"), headers=bearer("no.good.token"))
        self.request("POST", PROJECTS, 422, by=plain, headers=alice, json={"name": ""})
        duplicate = {"name": name, "external_id": name}
        for status in (201, 409):
            self.request("POST", PROJECTS, status, by=plain, headers=alice, json=duplicate)
        for _ in range(3):
            self.request("GET", PROJECTS, 200, by=("bearer", "legacy"), headers=bearer(legacy()))
        for _ in range(4):
            self.request("GET", LIVE, 200)
        self._sessions()

    def _sessions(self) -> None:
        wrong = {"username": "alice", "password": "wrong"}
        self.request("POST", f"{AUTH}/login", 401, json=wrong)
        self.logins[("password", "failed")] += 1
        issued = self.log_in()
        first = self.refresh(issued["refresh_token"], 200, "rotated")
        self.refresh(issued["refresh_token"], 200, "replayed")
        second = self.refresh(first["refresh_token"], 200, "rotated")
        self.refresh(second["refresh_token"], 200, "rotated")
        self.refresh(issued["refresh_token"], 401, "reused")
        self.refresh("no token", 401, "refused")
        response = self.request("POST", f"{AUTH}/login", 200, json={**RIGHT, "transport": "cookie"})
        self.logins[("password", "succeeded")] += 1
        cookies = "; ".join(f"{name}={value}" for name, value in response.cookies.items())
        same = {"X-CSRF-Token": response.cookies["csrf_token"], "Sec-Fetch-Site": "same-origin"}
        sent = {"Cookie": cookies, **same}
        by = ("auth_token", "enhanced")
        self.request("POST", PROJECTS, 201, by=by, headers=sent, json={"name": "By cookie"})

    def log_in(self) -> dict[str, Any]:
        """Log in and return the tokens."""
        tokens: dict[str, Any] = self.request("POST", f"{AUTH}/login", 200, json=RIGHT).json()
        self.logins[("password", "succeeded")] += 1
        return tokens

    def refresh(self, token: str, expected: int, outcome: str) -> dict[str, Any]:
        """Exchange a refresh token and return the response."""
        response = self.request("POST", f"{AUTH}/refresh", expected, json={"refresh_token": token})
        self.refreshes[(outcome,)] += 1
        tokens: dict[str, Any] = response.json()
        return tokens


RIGHT: Final = {"username": "alice", "password": PASSWORD}


def client_of(url: str) -> httpx2.Client:
    """Return a client that opens a connection for each request, so that any worker may respond."""
    return httpx2.Client(base_url=url, timeout=60, limits=httpx2.Limits(max_keepalive_connections=0))


def counted(samples: Iterable[dict[str, Any]], *labels: str) -> Counter[tuple[str, ...]]:
    """Add up samples by some of their labels."""
    counts: Counter[tuple[str, ...]] = Counter()
    for sample in samples:
        counts[tuple(sample["metric"][label] for label in labels)] += int(float(sample["value"][1]))
    return counts


def disconnect_early(url: str, path: str) -> None:
    """Send a request and disconnect before the response."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        connection.settimeout(0.3)
        try:
            connection.recv(1)
        except TimeoutError:
            return
    raise AssertionError("the server has responded")
