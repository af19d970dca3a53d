"""Traces of requests, as the timing middleware sees them; ``telemetry/otel`` implements both protocols."""

import re
from typing import Final, Protocol

from starlette.types import Scope

from projkit.http import scope_keys
from projkit.request_stats import ClientSpans

_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestTrace(Protocol):
    """The trace of one request, from its start to its end.

    Attributes:
        is_joined: whether the server span belongs to an instrumentation around the kit, which then also records the
            request's duration.
        response_header: the value of ``traceresponse`` (W3C Trace Context Level 2 §4); None if none is to be sent.
        client_spans: creator of the spans of database and Redis calls; None if the trace is not recorded.
    """

    is_joined: bool
    response_header: bytes | None
    client_spans: ClientSpans | None

    @property
    def trace_id(self) -> str:
        """The trace id, as 32 hexadecimal digits."""

    @property
    def exemplar(self) -> str | None:
        """The trace id if the trace is recorded, so that it can be looked up; None otherwise."""

    def set_route(self, route: str) -> None:
        """Set the template of the route, with the prefix of the kit's mount; must precede the response."""

    def set_error(self, error_type: str) -> None:
        """Mark the request as failed with an unexpected exception, given by the name of its class."""

    def end(self, status: int) -> None:
        """End the trace of the request."""


class Tracing(Protocol):
    """Creator of request traces; its methods never raise.

    Attributes:
        parent_headers: names of the request headers that carry a parent trace, in lower case.
    """

    parent_headers: frozenset[bytes]

    def has_current_context(self) -> bool:
        """Return whether code around the kit has attached a context, and so may have started a trace."""

    def start(self, scope: Scope, *, has_parent: bool) -> RequestTrace | None:
        """Start the trace of a request to the kit; return None if there is no trace."""

    def join(self, scope: Scope) -> RequestTrace | None:
        """Return the trace that the host has started for its own request, or None."""


def trace_id_of(scope: Scope) -> str | None:
    """Return the request's trace id as 32 hexadecimal digits, or None.

    If the kit does not trace the request, the id comes from ``traceparent`` (W3C Trace Context §3.2).
    """
    trace: RequestTrace | None = scope.get(scope_keys.TRACE)
    if trace is not None:
        return trace.trace_id
    for name, value in scope["headers"]:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            return str(match[1].decode())
    return None
