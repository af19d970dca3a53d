"""Requests that a kit sends to its own application in process, with any caller it chooses.

No client can reach that application, and no middleware in front of it times or counts its responses.
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
class InProcessResponse:
    """A complete response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body as JSON.

        Raises:
            ValueError: the body is not JSON.
        """
        return orjson.loads(self.body)


def is_in_process(scope: Scope) -> bool:
    """Return whether the kit itself sends this request, so that no credentials are read."""
    return scope_keys.IN_PROCESS_CALLER in scope


async def in_process_caller(request: Request) -> Principal:
    """Return the caller given to :func:`call_in_process`; replaces authentication.

    Raises:
        UnauthenticatedError: the request was sent without a caller.
    """
    caller: Principal | None = request.scope.get(scope_keys.IN_PROCESS_CALLER)
    if caller is None:
        raise UnauthenticatedError
    return caller


async def call_in_process(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    caller: Principal | None,
    query: str = "",
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
) -> InProcessResponse:
    """Send one request to ``app``, whose ``authenticate`` is :func:`in_process_caller`, and return its response.

    Raises:
        ConnectionError: the application sent no response.
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
        "client": None,  # no address, because loopback clients may be admitted without credentials
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
        raise ConnectionError("the application sent no response")
    start, *rest = sent
    return InProcessResponse(
        start["status"],
        {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in rest),
    )
