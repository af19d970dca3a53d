"""Denial of requests and WebSocket handshakes that the application does not handle."""

from collections.abc import Sequence
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from projkit.http.response import Header, Response

DENIAL_EXTENSION: Final = "websocket.http.response"
POLICY_VIOLATION: Final = 1008  # RFC 6455 §7.4.1


async def deny(
    response: Response, scope: Scope, receive: Receive, send: Send, *, more: Sequence[Header] = ()
) -> None:
    """Send ``response``, also to a WebSocket handshake if the server has ASGI's denial response extension.

    Without the extension the WebSocket is closed with code 1008, for which servers send a 403 without a body.
    """
    if scope["type"] == "http":
        await response.send(send, head=scope["method"] == "HEAD", more=more)
        return
    if (await receive())["type"] != "websocket.connect":
        return  # the client has disconnected
    if DENIAL_EXTENSION not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return

    async def send_denial(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await response.send(send_denial, head=False, more=more)
