"""The API docs page: Swagger UI, served from the package, so that it needs no other server."""

import gzip
import hashlib
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Final

from projkit.http.conditional import if_none_match
from projkit.http.request import Request, Scope
from projkit.http.response import Header, Response
from projkit.http.routing import Answer, Endpoint

_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "png": b"image/png",
}
# gzip, not refused by ;q=0 (RFC 9110 §12.5.3).
_GZIP: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE)
_ASSETS: Final = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "docs.js")
# Only what is beside the page may be loaded; Swagger UI sets styles of its own on elements.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PERMISSIONS: Final = (
    b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), publickey-credentials-get=(), "
    b"serial=(), usb=()"
)
_PAGE_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", _PERMISSIONS),
)
# On the page and on all that it loads: other sites can neither embed nor read them.
_RESOURCE_POLICY: Final[Header] = (b"cross-origin-resource-policy", b"same-origin")
_STRICT_TRANSPORT: Final[Header] = (b"strict-transport-security", b"max-age=31536000")  # RFC 6797; a year

# Whether the browser may be told to come by https alone from now on.
IsStrict = Callable[[Scope], bool]


class _File:
    """A file of the package: its bytes, plain and packed, and its entity tag."""

    def __init__(self, name: str) -> None:
        self.plain = files("projkit.web").joinpath("static", name).read_bytes()
        self.packed = gzip.compress(self.plain, mtime=0)
        self.type = _TYPES[name.rpartition(".")[2]]
        self.etag = f'"{hashlib.sha256(self.plain).hexdigest()[:16]}"'


_file: Final = cache(_File)


def endpoints(prefix: str, is_strict: IsStrict) -> list[Endpoint]:
    """``/docs`` and what it loads."""
    page = _endpoint(f"{prefix}/docs", "docs.html", "getDocs", is_strict, _PAGE_HEADERS)
    return [
        page,
        *(_endpoint(f"{prefix}/docs/{name}", name, f"getDocs:{name}", is_strict) for name in _ASSETS),
    ]


def _endpoint(
    path: str, name: str, operation_id: str, is_strict: IsStrict, more: tuple[Header, ...] = ()
) -> Endpoint:
    async def get(request: Request) -> Response:
        file = _file(name)
        headers: tuple[Header, ...] = (
            (b"etag", b"W/" + file.etag.encode()),  # weak: it stands for both encodings
            (b"cache-control", b"no-cache"),
            (b"vary", b"Accept-Encoding"),
        )
        precondition = if_none_match(request)
        if precondition is not None and precondition.matches_weakly(file.etag):
            return Response(304, headers=headers)
        headers = (*headers, (b"content-type", file.type), _RESOURCE_POLICY, *more)
        if is_strict(request.scope):
            headers = (*headers, _STRICT_TRANSPORT)
        if _GZIP.search(request.header(b"accept-encoding") or ""):
            return Response(200, file.packed, (*headers, (b"content-encoding", b"gzip")))
        return Response(200, file.plain, headers)

    return Endpoint(
        "GET", path, get, operation_id, "API docs", "health",
        {200: Answer("A page for people.")}, public=True, standalone=True, documented=False,
    )  # fmt: skip
