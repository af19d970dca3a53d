"""One process that runs the kit's requests when it is told to, and says what each of them has cost.

``python harness/laps.py`` with the kit's settings in the environment. A line of standard input is a case and how many
requests; the answer is the processor time of one, in µs. The kit is the one that this Python finds first, so that two
of these processes with different ``PYTHONPATH`` are two versions, measured in turn.
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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Ask = Callable[[], Awaitable[None]]

API = "/api/v1"
ABSENT = f"{API}/projects/0197a0a0-0000-7000-8000-000000000000"
AT_ONCE = 8
PAGE = 20
BODY = json.dumps(
    {
        "name": "Move the data centre",
        "description": "Everything in the cellar goes to the new building before the lease ends. " * 3,
        "status": "active", "priority": "high", "tags": ["infrastructure", "2026"],
        "start_date": "2026-02-01", "due_date": "2026-09-30", "metadata": {"cost_centre": 4711, "approved": True},
    }
).encode()  # fmt: skip
WRONG = b'{"name": "", "status": "x", "tags": [1]}'


class Laps:
    """The kit as ``projkit serve`` runs it, and the requests of each case."""

    def __init__(self, app: ServedApp, project: str, bearer: str) -> None:
        self._app = app
        here, known = f"{API}/projects", [(b"authorization", f"Bearer {bearer}".encode())]
        cookie = [(b"cookie", f"theme=dark; auth_token={bearer}; csrf_token=none".encode())]
        forged = [(b"authorization", f"Bearer {bearer[:-4]}AAAA".encode())]
        self.cases: dict[str, Ask] = {
            "live": self._asking("GET", f"{API}/health/live", 200),
            "ready": self._asking("GET", f"{API}/health/ready", 200),
            "GET": self._asking("GET", project, 200, known),
            "GET with a cookie": self._asking("GET", project, 200, cookie),
            "LIST": self._asking("GET", here, 200, known, query=f"limit={PAGE}"),
            "POST": self._asking("POST", here, 201, known, body=BODY),
            "401, no credentials": self._asking("GET", project, 401),
            "401, a forged token": self._asking("GET", project, 401, forged),
            "404, no such project": self._asking("GET", ABSENT, 404, known),
            "404, no such path": self._asking("GET", "/none", 404),
            "422, wrong fields": self._asking("POST", here, 422, known, body=WRONG),
        }

    def _asking(
        self,
        method: str,
        path: str,
        expected: int,
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        query: str = "",
        body: bytes = b"",
    ) -> Ask:
        sent = [
            (b"host", b"localhost:8000"),
            (b"user-agent", b"benchmark"),
            (b"accept", b"*/*"),
            *(headers or []),
        ]
        if body:
            sent += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != expected:
                raise SystemExit(f"{method} {path}: {message['status']} instead of {expected}")

        async def ask() -> None:
            scope = {  # as uvicorn makes it for each request
                "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
                "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 40_000), "scheme": "http",
                "root_path": "", "headers": list(sent), "state": {}, "method": method, "path": path,
                "raw_path": path.encode(), "query_string": query.encode(),
            }  # fmt: skip
            await self._app(scope, receive, send)

        return ask

    async def run(self, name: str, requests: int) -> float:
        """So many requests, eight at once; the processor time of one of them in µs."""
        ask, each = self.cases[name], requests // AT_ONCE

        async def some() -> None:
            for _ in range(each):
                await ask()

        spent = time.process_time()
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        return (time.process_time() - spent) / (each * AT_ONCE) * 1e6


async def main() -> None:
    """Open the kit, and do what standard input says until it ends."""
    kit = ProjKit()
    loop = asyncio.get_running_loop()
    async with kit.lifespan():
        alice = Principal("alice")
        for _ in range(PAGE):
            project = await kit.projects.create(alice, **json.loads(BODY))
        opened = await kit.sessions.open(
            "alice", DEFAULT_SCOPES, "", "body", Client("127.0.0.1", "benchmark")
        )
        laps = Laps(ServedApp(kit, kit, kit.settings), f"{API}/projects/{project.id}", opened.access_token)
        for name in laps.cases:
            await laps.run(name, 50 * AT_ONCE)
        gc.collect()
        gc.freeze()
        print(json.dumps(list(laps.cases)), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            name, requests = json.loads(line)
            print(json.dumps(await laps.run(name, requests)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
