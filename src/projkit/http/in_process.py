"""Requests that a kit makes of itself: through its own application, over no network, and as whom it likes.

No client can reach the application that is asked here, and nothing before it times or counts what it answers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Scope

from projkit.errors import UnauthenticatedError
from projkit.http import scope_keys
from projkit.http.request import Request
from projkit.identity import Principal

RawHeaders = tuple[tuple[bytes, bytes], ...]
_REQUEST_ID: Final = "validation"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return orjson.loads(self.body)


def is_from_inside(scope: Scope) -> bool:
    """Whether the kit asks itself, so that nobody's credentials are to be looked for."""
    return scope_keys.IN_PROCESS_CALLER in scope


async def named_caller(request: Request) -> Principal:
    """The caller that :func:`ask` was given, in place of credentials.

    Raises:
        UnauthenticatedError: it was given none.
    """
    caller: Principal | None = request.scope.get(scope_keys.IN_PROCESS_CALLER)
    if caller is None:
        raise UnauthenticatedError
    return caller


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    caller: Principal | None,
    query: str = "",
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
) -> Answer:
    """The answer of ``app``, whose ``authenticate`` is :func:`named_caller`, to one request.

    Raises:
        ConnectionError: it gave none.
    """
    length = [(b"content-length", b"%d" % len(body))] if body else []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*headers, *length],
        "client": None,  # nobody's address: loopback may be let in without credentials
        "server": None,
        scope_keys.PATH: path,
        scope_keys.REQUEST_ID: _REQUEST_ID,
        scope_keys.IN_PROCESS_CALLER: caller,
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        raise ConnectionError("no answer")
    start, *rest = sent
    return Answer(
        start["status"],
        {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in rest),
    )
