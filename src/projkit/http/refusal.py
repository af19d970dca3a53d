"""Refusing a request or a WebSocket before anything of it is taken on."""

from collections.abc import Sequence
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from projkit.http.response import Header, Response

DENIAL: Final = "websocket.http.response"
POLICY_VIOLATION: Final = 1008  # RFC 6455 §7.4.1


async def refuse(
    response: Response, scope: Scope, receive: Receive, send: Send, *, more: Sequence[Header] = ()
) -> None:
    """Sends ``response``; to a WebSocket's handshake in place of accepting it, where the server can do that.

    Where it cannot, the WebSocket is closed with 1008, which servers turn into a plain 403.
    """
    if scope["type"] == "http":
        await response.send(send, head=scope["method"] == "HEAD", more=more)
        return
    await receive()  # websocket.connect
    if DENIAL not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return

    async def send_denial(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await response.send(send_denial, head=False, more=more)
