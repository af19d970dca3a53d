"""projkit with a bare ASGI application: ``uvicorn bare_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from projkit import ProjKit

Message = MutableMapping[str, Any]


async def host(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Serve one page at every path."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"page": "the host\'s own"}'})


kit = ProjKit()  # reads PROJKIT_* variables; opens nothing
app = kit.wrap(host, prefix="/kit")
