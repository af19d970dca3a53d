"""Encoding of prefixes for URLs in responses and for the paths of cookies.

A browser compares the path of a cookie with the path of a request as it sends it, without decoding either (RFC 6265
§5.1.4): a cookie for ``/%40team`` is not sent to ``/@team``. So a prefix must be spelled as in browsers, which leave
alone whatever is not in the path percent-encode set of the WHATWG URL Standard.
"""

from typing import Final
from urllib.parse import quote, unquote

from projkit.http.request import Request

# RFC 3986 §3.3, without the semicolon: it ends the path of a cookie, so that only its encoded form can be used.
_SEGMENT_CHARS: Final = "/!$&'()*+,:=@"
_BROWSER_CHARS: Final = f"{_SEGMENT_CHARS}[]"
_ENCODED_CHARS: Final = f"{_BROWSER_CHARS}%"


def encode_path(path: str) -> str:
    """Return a path as it is written in a URL."""
    return quote(path, safe=_SEGMENT_CHARS, errors="replace")


def cookie_prefix(request: Request, public_path: str) -> str:
    """Return the prefix of a request's path as its browser spells it, for the path of a cookie.

    Args:
        request: the request.
        public_path: the path of PUBLIC_URL as it is written there; empty without one.
    """
    root_path = request.root_path
    if not root_path:
        return ""
    raw: str = (request.scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    for spelled in (raw.removesuffix(request.path), public_path):
        if spelled and unquote(spelled) == root_path:
            return quote(spelled, safe=_ENCODED_CHARS)
    return quote(root_path, safe=_BROWSER_CHARS, errors="replace")
