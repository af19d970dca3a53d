"""A host behind the kit receives and sends exactly the messages that it would receive and send without the kit.

The server, the time at which each of its messages arrives, and what the host does in between are random. The client is
polled for a disconnect before every response, as it is before slow ones.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware.base import BaseHTTPMiddleware

from projkit import ProjKit, Settings
from projkit.auth.middleware import PUBLIC
from projkit.monitoring.middleware import PerformanceMiddleware
from tests.asgi import DISCONNECT, WEBSOCKET_DISCONNECT, Message, body, call, http_scope, websocket_scope
from tests.conftest import SECRET

ADDED = {b"x-process-time", b"server-timing", b"x-request-id", b"traceresponse"}
TIMEOUT = 20.0


async def steps(count: int) -> None:
    """Let the event loop run its other tasks so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


@dataclass
class Server:
    """A server that has messages for an app, each after a number of steps of the event loop.

    Attributes:
        arrivals: the messages and the steps before each.
        repeats: whether every call after the disconnect returns it again, as the specification requires; hypercorn and
            daphne let such a call wait forever.
        hops: the steps after a message is taken from the server until ``receive`` returns it, as through middleware.
    """

    arrivals: list[tuple[int, Message]]
    repeats: bool
    hops: int
    sent: list[Message] = field(default_factory=list)

    async def serve(self, app: Any, scope: Message) -> None:
        """Call the app."""
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._gone = False
        feeding = asyncio.create_task(self._feed())
        try:
            async with asyncio.timeout(TIMEOUT):
                await app(scope, self.receive, self.send)
        finally:
            feeding.cancel()

    async def _feed(self) -> None:
        for delay, message in self.arrivals:
            await steps(delay)
            self._queue.put_nowait(message)

    async def receive(self) -> Message:
        """Return the next message."""
        if self._gone and self.repeats:
            return dict(DISCONNECT)
        message = await self._queue.get()
        self._gone = message["type"] == "http.disconnect"
        await steps(self.hops)
        return message

    async def send(self, message: Message) -> None:
        """Keep what the app sends."""
        self.sent.append(message)


@dataclass
class Host:
    """A host that does what it is told, then reads until the client has disconnected, and once more.

    Attributes:
        program: the actions: ``read``, ``poll`` (as Starlette's ``is_disconnected`` does), ``give up`` (read, and
            cancel that after some steps), ``listen`` (read all further messages in a task, as frameworks do that
            respond meanwhile), a number of steps to wait, or a message to send.
    """

    program: list[Any]
    received: list[Message] = field(default_factory=list)

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        """Handle a request."""

        async def read() -> None:
            self.received.append(await receive())

        async def read_all() -> None:
            while DISCONNECT not in self.received:
                await read()

        listener: asyncio.Task[None] | None = None
        for action in self.program:
            if isinstance(action, dict):
                await send(action)
            elif isinstance(action, int):
                await steps(action)
            elif listener is not None or DISCONNECT in self.received:
                continue  # of two readers only one gets a message, also without the kit
            elif action == "read":
                await read()
            elif action == "poll":
                with anyio.CancelScope() as scope_of_poll:
                    scope_of_poll.cancel()
                    await read()
            elif action == "give up":
                reading = asyncio.create_task(read())
                await steps(2)
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
            else:
                listener = asyncio.create_task(read_all())
        await (listener or read_all())
        await read()


EXTRA = st.dictionaries(st.sampled_from(["x-extra", "state"]), st.integers(), max_size=1)
START = st.builds(
    lambda headers, more, extra: {
        "type": "http.response.start",
        "status": 200,
        **({} if headers is None else {"headers": headers}),
        **({"trailers": True} if more else {}),
        **extra,
    },
    st.none()
    | st.lists(st.sampled_from([(b"X-A", b"1"), (b"x-a", b"2"), [b"set-cookie", b"c"]]), max_size=3),
    st.booleans(),
    EXTRA,
)
BEFORE = st.lists(
    st.sampled_from(
        [
            {"type": "http.response.debug", "info": {"template": "x"}},
            {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]},
            {"type": "http.response.push", "path": "/a.css", "headers": []},
        ]
    ),
    max_size=2,
)
AFTER = st.lists(
    st.builds(
        lambda content, extra: {**body(content, more=True), "type": "http.response.body", **extra},
        st.binary(max_size=3),
        EXTRA,
    )
    | st.sampled_from(
        [
            {"type": "http.response.zerocopysend", "file": 3, "offset": 0, "count": 1, "more_body": True},
            {"type": "http.response.pathsend", "path": "/a"},
            {"type": "http.response.push", "path": "/b.css", "headers": []},
            {"type": "http.response.body"},
            {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False},
            {"type": "http.response.of-the-future", "what": [1]},
        ]
    ),
    max_size=4,
)
RESPONSE = st.builds(lambda before, start, after: [*before, start, *after], BEFORE, START, AFTER)
BETWEEN = st.lists(st.sampled_from(["read", "poll", "give up", "listen"]) | st.integers(1, 4), max_size=4)
PARTS = st.lists(st.binary(max_size=3), max_size=3)
DELAYS = st.lists(st.integers(0, 4), min_size=5, max_size=5)


def interleaved(response: list[Message], between: list[list[Any]]) -> list[Any]:
    """Return the program of a host that does something before each message that it sends."""
    program: list[Any] = []
    for message, actions in zip(response, [*between, *([] for _ in response)], strict=False):
        program += [*actions, message]
    return program


PROGRAMS = st.builds(interleaved, RESPONSE, st.lists(BETWEEN, max_size=8))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for all examples."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner) -> Iterator[ProjKit]:
    """A started kit."""
    path = tmp_path_factory.mktemp("kit") / "kit.db"
    kit = ProjKit(Settings(secret=SECRET, database_url=f"sqlite+aiosqlite:///{Path(path)}"))
    runner.run(kit.startup())
    yield kit
    runner.run(kit.shutdown())


@pytest.fixture(scope="module", autouse=True)
def always_polled() -> Iterator[None]:
    """Poll before every response."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("projkit.http.timing._POLL_AFTER_SECONDS", -1)
        yield


async def passes_on(request: Any, call_next: Any) -> Any:
    """Do nothing, in the way of ``@app.middleware("http")``."""
    return await call_next(request)


LAYERS: dict[str, Callable[[ProjKit, Any], Any]] = {
    "wrap": lambda kit, host: kit.wrap(host, prefix="/kit"),
    "instrumented": lambda kit, host: kit.wrap(host, prefix="/kit", instrument=True),
    "guarded": lambda kit, host: kit.wrap(host, prefix="/kit", auth={"/": PUBLIC}),
    "middleware": lambda kit, host: PerformanceMiddleware(host, kit),
    "both": lambda kit, host: kit.wrap(PerformanceMiddleware(host, kit), performance=True),
}


@pytest.mark.parametrize("layers", LAYERS)
@given(
    parts=PARTS,
    delays=DELAYS,
    repeats=st.booleans(),
    hops=st.integers(0, 3),
    program=PROGRAMS,
    method=st.sampled_from(["GET", "POST"]),
    version=st.sampled_from(["1.1", "2"]),
)
def test_random_messages(
    runner: asyncio.Runner,
    kit: ProjKit,
    layers: str,
    parts: list[bytes],
    delays: list[int],
    repeats: bool,
    hops: int,
    program: list[Any],
    method: str,
    version: str,
) -> None:
    """The host gets each message once and in order, and the disconnect again whenever it asks; so does the server."""
    content = [body(part, more=True) for part in parts] + [body()]
    arrivals = list(zip(delays, [*content, DISCONNECT], strict=False))
    if hops:  # a host that cancels such a read loses the message by itself
        program = [action for action in program if action not in ("poll", "give up")]
    host = Host(deepcopy(program))
    server = Server(arrivals, repeats, hops)
    headers = [(b"transfer-encoding", b"chunked")] if parts and version == "1.1" else []
    scope = http_scope("/page", method, headers, http_version=version)
    runner.run(server.serve(LAYERS[layers](kit, host), scope))
    assert host.received[: len(arrivals)] == [message for _, message in arrivals]
    assert all(message == DISCONNECT for message in host.received[len(arrivals) :])
    wanted = [message for message in program if isinstance(message, dict)]
    assert [action for action in host.program if isinstance(action, dict)] == wanted, (
        "the host's own messages"
    )
    assert [without_added(message) for message in server.sent] == [without_added(each) for each in wanted]


def without_added(message: Message) -> Message:
    """Return a message without the headers that the kit adds."""
    if message["type"] != "http.response.start":
        return message
    headers = [pair for pair in message.get("headers", ()) if pair[0] not in ADDED]
    return {**message, "headers": headers}


@pytest.mark.parametrize("slow", [True, False])
def test_middleware_around_the_observer(runner: asyncio.Runner, kit: ProjKit, slow: bool) -> None:
    """Middleware whose ``receive`` takes several steps, as BaseHTTPMiddleware's does, loses no message to the poll."""
    program: list[Any] = [{"type": "http.response.start", "status": 200, "headers": []}, "read", "read"]
    host = Host([3, *program] if slow else program)
    app = BaseHTTPMiddleware(PerformanceMiddleware(host, kit), passes_on)
    server = Server([(0, body()), (20, DISCONNECT)], repeats=False, hops=0)
    runner.run(server.serve(app, http_scope("/page", "POST", [(b"content-length", b"0")])))
    assert host.received[:2] == [body(), DISCONNECT]


def test_a_prepared_response(runner: asyncio.Runner, kit: ProjKit) -> None:
    """A host may send the same message again and again: each response has an id of its own."""
    start = {"type": "http.response.start", "status": 204, "headers": [(b"x-a", b"1")]}

    async def host(scope: Message, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body"})

    app = kit.wrap(host)
    sent = [runner.run(call(app, http_scope("/page"), body()))[0] for _ in range(2)]
    ids = {dict(message["headers"])[b"x-request-id"] for message in sent}
    assert len(ids) == 2
    assert start["headers"] == [(b"x-a", b"1")]


@pytest.mark.parametrize("layers", ["wrap", "instrumented", "guarded", "middleware", "both"])
@given(
    incoming=st.lists(
        st.sampled_from(
            [
                {"type": "websocket.receive", "text": "a", "x-extra": 1},
                {"type": "websocket.receive", "bytes": b"b"},
            ]
        ),
        max_size=3,
    ),
    outgoing=st.sampled_from(
        [
            [{"type": "websocket.accept", "subprotocol": "a", "headers": [(b"x-a", b"1")], "x-extra": 1}],
            [{"type": "websocket.close", "code": 4000, "reason": "no"}],
            [
                {"type": "websocket.http.response.start", "status": 404, "headers": [(b"x-a", b"1")]},
                {"type": "websocket.http.response.body", "body": b"no"},
            ],
        ]
    ),
)
def test_web_sockets(
    runner: asyncio.Runner, kit: ProjKit, layers: str, incoming: list[Message], outgoing: list[Message]
) -> None:
    """The messages of a WebSocket pass unchanged, in both directions, and with them the disconnect."""
    received: list[Message] = []

    async def host(scope: Message, receive: Any, send: Any) -> None:
        for message in outgoing:
            await send(message)
        while not received or received[-1]["type"] != "websocket.disconnect":
            received.append(await receive())

    messages = [{"type": "websocket.connect"}, *incoming]
    app = LAYERS[layers](kit, host)
    assert runner.run(call(app, websocket_scope("/page"), *messages)) == outgoing
    assert received == [*messages, WEBSOCKET_DISCONNECT]


@pytest.mark.parametrize("served", ["wrapped", "alone"])
def test_the_messages_of_the_lifespan(runner: asyncio.Runner, kit: ProjKit, served: str) -> None:
    """The host's lifespan gets the server's messages, and the server gets the host's responses, also an error."""
    received: list[Message] = []

    async def host(scope: Message, receive: Any, send: Any) -> None:
        received.append(await receive())
        await send({"type": "lifespan.startup.complete", "x-extra": 1})
        received.append(await receive())
        await send({"type": "lifespan.shutdown.failed", "message": "the host's", "x-extra": 2})

    other = ProjKit(kit.settings)
    app = other.wrap(host) if served == "wrapped" else PerformanceMiddleware(host, other)
    messages = [{"type": "lifespan.startup", "x-extra": 3}, {"type": "lifespan.shutdown", "x-extra": 4}]
    sent = runner.run(call(app, {"type": "lifespan", "asgi": {}}, *messages))
    assert received == messages
    assert [message["x-extra"] for message in sent] == [1, 2]


def test_a_web_socket_that_ends_before_it_is_denied(runner: asyncio.Runner, kit: ProjKit) -> None:
    """A WebSocket whose client has gone before the handshake gets no response."""
    app = kit.wrap(Host([]), auth={"/": ("admin",)})
    assert runner.run(call(app, websocket_scope("/page"))) == []
    assert runner.run(call(app, websocket_scope("/page"), {"type": "websocket.connect"})) == [
        {"type": "websocket.close", "code": 1008}
    ]
