"""Requests and WebSockets to an ASGI app, with a scope that a test decides about to the last byte."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests import asgi
from tests.asgi import call, http_scope, websocket_scope

Headers = list[tuple[bytes, bytes]]
HOST = (b"host", b"testserver")


@dataclass
class Answer:
    """A response; an accepted WebSocket has the status 101."""

    status: int
    headers: Headers
    body: bytes
    sent: list[Any] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The one value of a header."""
        values = [value.decode() for key, value in self.headers if key.decode().lower() == name]
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    def json(self) -> Any:
        """The body's content."""
        return json.loads(self.body)


def bearer(token: str) -> Headers:
    """The header of a Bearer token."""
    return [(b"authorization", f"Bearer {token}".encode())]


def cookie(name: str, value: str) -> Headers:
    """The header of one cookie."""
    return [(b"cookie", f"{name}={value}".encode())]


async def http(
    app: Any, path: str, *, method: str = "GET", headers: Headers | None = None, **more: Any
) -> Answer:
    """One HTTP request; its body, if any, is ``body`` in ``more``."""
    body: bytes = more.pop("body", b"")
    lengths = [(b"content-length", str(len(body)).encode())] if body else []
    scope = http_scope(path, method, [HOST, *(headers or []), *lengths], **more)
    sent = await call(app, scope, asgi.body(body))
    assert sent[0]["type"] == "http.response.start"
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(sent[0]["status"], list(sent[0]["headers"]), content, sent)


async def raw(app: Any, target: str, **more: Any) -> Answer:
    """Send one HTTP request to a target as in the request line, with the path that servers derive from it."""
    return await http(app, unquote(target), raw_path=target.encode(), **more)


async def websocket(
    app: Any, path: str, *, headers: Headers | None = None, denial: bool = True, **more: Any
) -> Answer:
    """Perform one handshake; ``denial`` is whether the server supports denial responses."""
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
    scope = websocket_scope(path, [HOST, *(headers or [])], extensions=extensions, **more)
    sent = await call(app, scope, {"type": "websocket.connect"})
    first = sent[0]
    if first["type"] == "websocket.accept":
        text = "".join(message.get("text", "") for message in sent[1:])
        return Answer(101, list(first.get("headers", ())), text.encode(), sent)
    if first["type"] == "websocket.close":
        return Answer(403, [], b"", sent)
    assert [message["type"] for message in sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    return Answer(first["status"], list(first["headers"]), sent[1]["body"], sent)
