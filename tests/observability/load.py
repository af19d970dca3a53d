"""Real requests, of which each is counted here as the service should count it."""

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
    """One client of a server; ``requests``, ``logins``, ``refreshes`` and ``credentials`` are by their labels."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client
        self._numbers = itertools.count()
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.logins: Counter[tuple[str, str]] = Counter()
        self.refreshes: Counter[tuple[str]] = Counter()
        self.credentials: Counter[tuple[str, str, str]] = Counter()

    def ask(
        self, method: str, path: str, expected: int, *,
        route: str = "", by: tuple[str, str] | None = None, **options: Any,
    ) -> httpx2.Response:  # fmt: skip
        """A request and its count; ``by`` is transport and format of its credential, if it brings one."""
        self._client.cookies.clear()
        answer = self._client.request(method, path, **options)
        assert answer.status_code == expected, answer.text
        self.requests[(method, route or path.partition("?")[0], str(expected))] += 1
        if by is not None:
            self.credentials[(*by, "refused" if expected == 401 else "accepted")] += 1
        return answer

    def round(self) -> None:
        """Reads, writes, what is refused, logins, refreshes, and probes."""
        alice, plain = headers(), ("bearer", "enhanced")
        name = f"Project {next(self._numbers)}"
        for _ in range(5):
            made = self.ask("POST", PROJECTS, 201, by=plain, headers=alice, json={"name": name}).json()
            one = f"{PROJECTS}/{made['id']}"
            self.ask("GET", one, 200, route=PROJECT, by=plain, headers=alice)
            self.ask("PATCH", one, 200, route=PROJECT, by=plain, headers=alice, json={"status": "active"})
            self.ask("GET", f"{PROJECTS}?limit=5", 200, by=plain, headers=alice)
        self.ask("DELETE", one, 204, route=PROJECT, by=plain, headers=alice)
        self.ask("GET", one, 404, route=PROJECT, by=plain, headers=alice)
        self.ask("GET", "/nowhere", 404, route="__unknown__")
        self.ask("GET", PROJECTS, 401)
        self.ask("GET", PROJECTS, 401, by=("bearer", "unknown"), headers=bearer("no.good.token"))
        self.ask("POST", PROJECTS, 422, by=plain, headers=alice, json={"name": ""})
        taken = {"name": name, "external_id": name}
        for status in (201, 409):
            self.ask("POST", PROJECTS, status, by=plain, headers=alice, json=taken)
        for _ in range(3):
            self.ask("GET", PROJECTS, 200, by=("bearer", "legacy"), headers=bearer(legacy()))
        for _ in range(4):
            self.ask("GET", LIVE, 200)
        self._sessions()

    def _sessions(self) -> None:
        wrong = {"username": "alice", "password": "wrong"}
        self.ask("POST", f"{AUTH}/login", 401, json=wrong)
        self.logins[("password", "failed")] += 1
        issued = self.log_in()
        first = self.refresh(issued["refresh_token"], 200, "rotated")
        self.refresh(issued["refresh_token"], 200, "replayed")
        second = self.refresh(first["refresh_token"], 200, "rotated")
        self.refresh(second["refresh_token"], 200, "rotated")
        self.refresh(issued["refresh_token"], 401, "reused")
        self.refresh("no token", 401, "refused")
        answer = self.ask("POST", f"{AUTH}/login", 200, json={**RIGHT, "transport": "cookie"})
        self.logins[("password", "succeeded")] += 1
        cookies = "; ".join(f"{name}={value}" for name, value in answer.cookies.items())
        same = {"X-CSRF-Token": answer.cookies["csrf_token"], "Sec-Fetch-Site": "same-origin"}
        sent = {"Cookie": cookies, **same}
        by = ("auth_token", "enhanced")
        self.ask("POST", PROJECTS, 201, by=by, headers=sent, json={"name": "By cookie"})

    def log_in(self) -> dict[str, Any]:
        """What a login gives."""
        found: dict[str, Any] = self.ask("POST", f"{AUTH}/login", 200, json=RIGHT).json()
        self.logins[("password", "succeeded")] += 1
        return found

    def refresh(self, token: str, expected: int, outcome: str) -> dict[str, Any]:
        """What a refresh token is exchanged for."""
        answer = self.ask("POST", f"{AUTH}/refresh", expected, json={"refresh_token": token})
        self.refreshes[(outcome,)] += 1
        found: dict[str, Any] = answer.json()
        return found


RIGHT: Final = {"username": "alice", "password": PASSWORD}


def client_of(url: str) -> httpx2.Client:
    """A client that makes a connection of its own for each request, so that any worker may answer."""
    return httpx2.Client(base_url=url, timeout=60, limits=httpx2.Limits(max_keepalive_connections=0))


def counted(samples: Iterable[dict[str, Any]], *labels: str) -> Counter[tuple[str, ...]]:
    """Samples by some of their labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for sample in samples:
        found[tuple(sample["metric"][label] for label in labels)] += int(float(sample["value"][1]))
    return found


def leave(url: str, path: str) -> None:
    """Asks, and goes away before there is an answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        connection.settimeout(0.3)
        try:
            connection.recv(1)
        except TimeoutError:
            return
    raise AssertionError("it has answered")
