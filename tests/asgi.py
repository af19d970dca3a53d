"""ASGI calls without an HTTP client: scopes and messages that a test controls to the last byte."""

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

Message = dict[str, Any]
Headers = Iterable[tuple[bytes, bytes]]

DISCONNECT: Final[Message] = {"type": "http.disconnect"}
WEBSOCKET_DISCONNECT: Final[Message] = {"type": "websocket.disconnect", "code": 1005}


def http_scope(path: str, method: str = "GET", headers: Headers = (), **fields: Any) -> Message:
    """Return the scope of a request over HTTP/1.1; ``fields`` replace members and add others."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 40_000),
        "server": ("testserver", 80),
        **fields,
    }


def websocket_scope(path: str, headers: Headers = (), **fields: Any) -> Message:
    """Return the scope of a WebSocket handshake."""
    defaults = {"type": "websocket", "scheme": "ws", "subprotocols": [], "extensions": {}}
    scope = http_scope(path, headers=headers, **{**defaults, **fields})
    del scope["method"]
    return scope


def body(content: bytes = b"", *, more: bool = False) -> Message:
    """Return a message with a part of a request's body."""
    return {"type": "http.request", "body": content, "more_body": more}


async def call(
    app: Any, scope: Message, *received: Message, sent: list[Message] | None = None
) -> list[Message]:
    """Call an app as a server does, and return the messages that it sends.

    Args:
        app: Any ASGI application.
        scope: The scope.
        received: The messages that ``receive`` returns, one after the other; then the client has disconnected.
        sent: A list for the messages, which has those of an app that raises as well.
    """
    waiting = iter(received)
    messages = [] if sent is None else sent
    last = WEBSOCKET_DISCONNECT if scope["type"] == "websocket" else DISCONNECT

    async def receive() -> Message:
        return next(waiting, last)

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return messages
