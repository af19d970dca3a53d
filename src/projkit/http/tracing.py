"""The trace that a request is part of: what the timing middleware asks of tracing, and what others read of it."""

import re
from typing import Final, Protocol

from starlette.types import Scope

from projkit.http import scope_keys
from projkit.request_stats import ClientSpans

_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestTrace(Protocol):
    """The trace of one request, from its beginning to its end.

    Attributes:
        is_joined: whether somebody else has begun it, who then counts the request as well.
        response_header: the value of ``traceresponse`` (W3C Trace Context Level 2 §4), None where none is due.
        client_spans: makes spans of what the request asks of database and Redis; None where nobody would see them.
    """

    is_joined: bool
    response_header: bytes | None
    client_spans: ClientSpans | None

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    @property
    def exemplar(self) -> str | None:
        """The trace id where the trace is kept, so that somebody may find it by that."""

    def matched(self, route: str) -> None:
        """The request's route is known: its template below the kit's mount. Before any part of the answer is sent."""

    def failed(self, error_type: str) -> None:
        """Nobody expected the request to fail as it did."""

    def end(self, status: int) -> None:
        """The request is over."""


class Tracing(Protocol):
    """Begins traces."""

    parents: frozenset[bytes]  # the headers in which a caller says which trace it is part of

    def has_begun(self) -> bool:
        """Whether somebody further out may have begun a trace of what is asked now. Must never raise."""

    def begin(self, scope: Scope, *, has_parent: bool) -> RequestTrace | None:
        """A request to the kit has come; None where nobody traces it. Must never raise."""

    def join(self, scope: Scope) -> RequestTrace | None:
        """The trace that a host's own request is part of, as far as the host has begun one. Must never raise."""


def trace_id_of(scope: Scope) -> str | None:
    """The request's trace id, 32 hexadecimal digits.

    Where the kit does not trace it is the one of ``traceparent`` (W3C Trace Context §3.2).
    """
    trace: RequestTrace | None = scope.get(scope_keys.TRACE)
    if trace is not None:
        return trace.trace_id
    for name, value in scope["headers"]:
        if name == b"traceparent" and (found := _TRACEPARENT.fullmatch(value)):
            return str(found[1].decode())
    return None
