"""The trace that a request is part of, as far as its headers tell."""

import re
from typing import Final

from projkit.http.request import Scope

_TRACE: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id_of(scope: Scope) -> str | None:
    """The trace id of ``traceparent`` (W3C Trace Context §3.2), 32 hexadecimal digits."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and (found := _TRACE.fullmatch(value)):
            return str(found[1].decode())
    return None
