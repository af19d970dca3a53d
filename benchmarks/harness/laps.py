"""The worker process of ``in_process.py``: it sends requests to a kit and prints the CPU time of each.

``python harness/laps.py`` with the kit's settings in the environment. Each line of standard input is a case and a
number of requests; the response is the CPU time per request in µs. The kit is the first one on ``PYTHONPATH``, so that
two workers can run two versions, measured in turn.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import uvloop

from projkit import Principal, ProjKit
from projkit.auth.session_service import Client
from projkit.cli.server import ServedApp
from projkit.identity import DEFAULT_SCOPES
from projkit.testing.internals import Internals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Send = Callable[[], Awaitable[None]]

API = "/api/v1"
ABSENT = f"{API}/projects/0197a0a0-0000-7000-8000-000000000000"
CONCURRENCY = 8
PAGE = 20
BODY = json.dumps(
    {
        "name": "Move the data centre",
        "description": "Everything in the cellar goes to the new building before the lease ends. " * 3,
        "status": "active", "priority": "high", "tags": ["infrastructure", "2026"],
        "start_date": "2026-02-01", "due_date": "2026-09-30", "metadata": {"cost_centre": 4711, "approved": True},
    }
).encode()  # fmt: skip
INVALID = b'{"name": "", "status": "x", "tags": [1]}'


class Laps:
    """The kit as ``projkit serve`` runs it, and the request of each case."""

    def __init__(self, app: ServedApp, project: str, bearer: str) -> None:
        self._app = app
        collection, bearer_header = f"{API}/projects", [(b"authorization", f"Bearer {bearer}".encode())]
        cookie = [(b"cookie", f"theme=dark; auth_token={bearer}; csrf_token=none".encode())]
        forged = [(b"authorization", f"Bearer {bearer[:-4]}AAAA".encode())]
        self.cases: dict[str, Send] = {
            "live": self._request("GET", f"{API}/health/live", 200),
            "ready": self._request("GET", f"{API}/health/ready", 200),
            "GET": self._request("GET", project, 200, bearer_header),
            "GET with a cookie": self._request("GET", project, 200, cookie),
            "LIST": self._request("GET", collection, 200, bearer_header, query=f"limit={PAGE}"),
            "POST": self._request("POST", collection, 201, bearer_header, body=BODY),
            "401, no credentials": self._request("GET", project, 401),
            "401, a forged token": self._request("GET", project, 401, forged),
            "404, no such project": self._request("GET", ABSENT, 404, bearer_header),
            "404, no such path": self._request("GET", "/none", 404),
            "422, wrong fields": self._request("POST", collection, 422, bearer_header, body=INVALID),
        }

    def _request(
        self,
        method: str,
        path: str,
        expected: int,
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        query: str = "",
        body: bytes = b"",
    ) -> Send:
        all_headers = [
            (b"host", b"localhost:8000"),
            (b"user-agent", b"benchmark"),
            (b"accept", b"*/*"),
            *(headers or []),
        ]
        if body:
            all_headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != expected:
                raise SystemExit(f"{method} {path}: {message['status']} instead of {expected}")

        async def send_request() -> None:
            scope = {  # as uvicorn creates it for each request
                "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
                "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 40_000), "scheme": "http",
                "root_path": "", "headers": list(all_headers), "state": {}, "method": method, "path": path,
                "raw_path": path.encode(), "query_string": query.encode(),
            }  # fmt: skip
            await self._app(scope, receive, send)

        return send_request

    async def run(self, name: str, requests: int) -> float:
        """Send requests with a concurrency of eight; return the CPU time per request in µs."""
        send_request, count = self.cases[name], requests // CONCURRENCY

        async def send_requests() -> None:
            for _ in range(count):
                await send_request()

        started = time.process_time()
        await asyncio.gather(*(send_requests() for _ in range(CONCURRENCY)))
        return (time.process_time() - started) / (count * CONCURRENCY) * 1e6


async def main() -> None:
    """Open the kit, and execute the commands of standard input until it ends."""
    kit = ProjKit()
    loop = asyncio.get_running_loop()
    async with kit.lifespan():
        alice = Principal("alice")
        for _ in range(PAGE):
            project = await kit.projects.create(alice, **json.loads(BODY))
        opened = await Internals(kit).running.auth.sessions.open(
            "alice", DEFAULT_SCOPES, "", "body", Client("127.0.0.1", "benchmark")
        )
        laps = Laps(ServedApp(kit, kit, kit.settings), f"{API}/projects/{project.id}", opened.access_token)
        for name in laps.cases:
            await laps.run(name, 50 * CONCURRENCY)
        gc.collect()
        gc.freeze()
        print(json.dumps(list(laps.cases)), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            name, requests = json.loads(line)
            print(json.dumps(await laps.run(name, requests)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
