"""Requests that wait in the queue or are held by the host, under the test's control."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from projkit import Principal, ProjKit
from tests import asgi
from tests.asgi import http_scope
from tests.conftest import settings_for

PROJECTS = "/api/v1/projects"
LIMITS = {"max_concurrent_requests": 1, "database_pool_size": 1, "queue_seconds": 30}
BODY = b'{"name": "A"}'


class PendingRequest:
    """A request whose client the test controls.

    Attributes:
        receive_calls: how often the app called ``receive``.
        messages: what the app sent.
        on_response_start: is called when the response begins.
    """

    def __init__(
        self,
        app: Any,
        path: str = PROJECTS,
        *,
        method: str = "GET",
        name: str = "",
        body: Iterable[bytes] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
        version: str = "1.1",
    ) -> None:
        self.receive_calls = 0
        self.messages: list[Any] = []
        self.on_response_start: Callable[[], object] = bool
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        pieces = list(body)
        for number, piece in enumerate(pieces):
            self.send_body(piece, more=number + 1 < len(pieces))
        if method == "GET":
            self.send_body(b"", more=False)
        else:
            headers = [(b"content-type", b"application/json"), *headers]
        headers = [(b"host", b"x"), (b"x-name", name.encode()), *headers]
        scope = http_scope(path, method, headers, http_version=version)
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def send_body(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        self._incoming.put_nowait(asgi.body(body, more=more))

    def disconnect(self) -> None:
        """Disconnect the client."""
        self._incoming.put_nowait(asgi.DISCONNECT)

    async def status(self) -> int:
        """Wait for the response and return its status."""
        async with asyncio.timeout(20):
            await self.task
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    def json(self) -> Any:
        """Return the JSON of the response."""
        return json.loads(b"".join(message.get("body", b"") for message in self.messages))

    async def _receive(self) -> dict[str, Any]:
        self.receive_calls += 1
        return await self._incoming.get()

    async def _send(self, message: Any) -> None:
        if not self.messages:
            self.on_response_start()
        self.messages.append(message)


class HoldingHost:
    """A host's ``get_principal`` that holds requests until the test releases them.

    Requests are named by their header ``x-name``; those whose name begins with ``quick`` are not held.

    Attributes:
        received: the names of the requests that got a slot, in order.
        holding: whether requests are held.
    """

    def __init__(self) -> None:
        self.received: list[str] = []
        self._held: dict[str, asyncio.Future[None]] = {}
        self.holding = True

    async def __call__(self, scope: Any) -> Principal:
        """Return a principal after :meth:`release`."""
        name = dict(scope["headers"])[b"x-name"].decode()
        self.received.append(name)
        if self.holding and not name.startswith("quick"):
            self._held[name] = asyncio.get_running_loop().create_future()
            await self._held[name]
        return Principal("alice")

    def release(self, name: str) -> None:
        """Release the request of this name."""
        self._held.pop(name).set_result(None)

    async def wait_for(self, name: str) -> None:
        """Wait until the request of this name has a slot."""
        async with asyncio.timeout(20):
            while name not in self.received:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def limited_kit(url: str, host: HoldingHost | None = None, **limits: Any) -> AsyncIterator[ProjKit]:
    """A kit with a single slot, unless ``limits`` says otherwise."""
    kit = ProjKit(settings_for(url, **{**LIMITS, **limits}), get_principal=host)
    async with kit.lifespan():
        yield kit


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)
