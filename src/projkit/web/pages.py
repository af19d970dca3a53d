"""The HTML pages, API docs and status; all of their resources are served from the package."""

import gzip
import hashlib
import re
from collections.abc import Callable
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

from starlette.types import Scope

from projkit.http.conditional import if_none_match
from projkit.http.request import Request
from projkit.http.response import Header, Response
from projkit.http.routing import Endpoint, ResponseSpec

_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "png": b"image/png",
    "svg": b"image/svg+xml",
}
# Matches gzip, except with ;q=0 (RFC 9110 §12.5.3).
_GZIP: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE)
_DOCS_ASSETS: Final = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "docs.js", "docs.css")
_STATUS_ASSETS: Final = (
    "status.js",
    "access.js",
    "verdict.js",
    "targets.js",
    "panels.js",
    "endpoints.js",
    "chart.js",
    "dom.js",
    "status.css",
    "status.svg",
)
# Only resources of the same origin may be loaded; Swagger UI sets inline styles.
_DOCS_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Trusted types also prevent scripts from turning text into markup.
_STATUS_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_PERMISSIONS: Final = (
    b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), publickey-credentials-get=(), "
    b"serial=(), usb=()"
)
_PAGE_HEADERS: Final[tuple[Header, ...]] = (
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", _PERMISSIONS),
)
# For pages and their resources: other sites can neither embed nor read them.
_RESOURCE_POLICY: Final[Header] = (b"cross-origin-resource-policy", b"same-origin")
_STRICT_TRANSPORT: Final[Header] = (b"strict-transport-security", b"max-age=31536000")  # RFC 6797; one year

# Returns whether to send Strict-Transport-Security.
IsStrict = Callable[[Scope], bool]


class _File:
    """A file of the package: its content, plain and compressed, and its entity tag."""

    def __init__(self, name: str, *values: tuple[str, str]) -> None:
        self.plain = files("projkit.web").joinpath("static", name).read_bytes()
        for placeholder, value in values:
            self.plain = self.plain.replace(placeholder.encode(), escape(value).encode())
        self.compressed = gzip.compress(self.plain, mtime=0)
        self.type = _TYPES[name.rpartition(".")[2]]
        self.etag = f'"{hashlib.sha256(self.plain).hexdigest()[:16]}"'


_file: Final = cache(_File)


def endpoints(
    prefix: str, is_strict: IsStrict, *, csrf_header: str, csrf_cookie: str, tenants: bool
) -> list[Endpoint]:
    """Return the endpoints of ``/docs``, ``/monitoring`` and their resources.

    The pages are public because they contain no data: they request the data with the credentials of their user. The
    names and flags that this requires are written into the pages.
    """
    docs, status = f"{prefix}/docs", f"{prefix}/monitoring"
    values = (
        ("{csrf_header}", csrf_header),
        ("{csrf_cookie}", csrf_cookie),
        ("{tenants}", "yes" if tenants else "no"),
    )
    docs_headers = (*_PAGE_HEADERS, (b"content-security-policy", _DOCS_POLICY))
    status_headers = (*_PAGE_HEADERS, (b"content-security-policy", _STATUS_POLICY))
    return [
        _endpoint(docs, "docs.html", "getDocs", "API docs", is_strict, docs_headers, values),
        *(
            _endpoint(f"{docs}/{name}", name, f"getDocs:{name}", "API docs", is_strict)
            for name in _DOCS_ASSETS
        ),
        _endpoint(
            status, "status/status.html", "getStatusPage", "Status page", is_strict, status_headers, values
        ),
        *(
            _endpoint(
                f"{status}/assets/{name}", f"status/{name}", f"getStatusPage:{name}", "Status page", is_strict
            )
            for name in _STATUS_ASSETS
        ),
    ]


def _endpoint(
    path: str,
    name: str,
    operation_id: str,
    summary: str,
    is_strict: IsStrict,
    page_headers: tuple[Header, ...] = (),
    values: tuple[tuple[str, str], ...] = (),
) -> Endpoint:
    async def get(request: Request) -> Response:
        file = _file(name, *values)
        headers: tuple[Header, ...] = (
            (b"etag", b"W/" + file.etag.encode()),  # weak: the same for both encodings
            (b"cache-control", b"no-cache"),
            (b"vary", b"Accept-Encoding"),
        )
        precondition = if_none_match(request)
        if precondition is not None and precondition.matches_tag(file.etag):
            return Response(304, headers=headers)
        headers = (*headers, (b"content-type", file.type), _RESOURCE_POLICY, *page_headers)
        if is_strict(request.scope):
            headers = (*headers, _STRICT_TRANSPORT)
        if _GZIP.search(request.header(b"accept-encoding") or ""):
            return Response(200, file.compressed, (*headers, (b"content-encoding", b"gzip")))
        return Response(200, file.plain, headers)

    return Endpoint(
        method="GET",
        path=path,
        handler=get,
        operation_id=operation_id,
        summary=summary,
        tag="health",
        responses={200: ResponseSpec("The file.")},
        public=True,
        standalone=True,
        documented=False,
    )
