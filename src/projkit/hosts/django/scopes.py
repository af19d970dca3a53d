"""ASGI scopes of Django's requests, which over WSGI are made of ``request.META``."""

import weakref
from typing import Any, Final

from django.http import HttpRequest
from starlette.types import Scope

from projkit.http import scope_keys

_ATTRIBUTE: Final = "projkit_scope"
_REQUEST: Final = "projkit.django_request"
_CONTENT: Final = ("CONTENT_TYPE", "CONTENT_LENGTH")  # headers without the prefix HTTP_ (RFC 3875 §4.1)


def scope_of(request: HttpRequest) -> Scope:
    """Return the scope of a request, the same one at each call."""
    scope: Scope | None = getattr(request, "scope", None)
    if scope is None:
        scope = getattr(request, _ATTRIBUTE, None)
    if scope is None:
        scope = _scope_of_meta(request)
        setattr(request, _ATTRIBUTE, scope)
    if _REQUEST not in scope:
        # Django REST framework wraps the request. A weak reference, since the request refers to its scope.
        scope[_REQUEST] = weakref.ref(getattr(request, "_request", request))
    return scope


def request_of_scope(scope: Scope) -> HttpRequest | None:
    """Return Django's request; None for a request that Django does not handle, such as one to the kit."""
    reference = scope.get(_REQUEST)
    return None if reference is None else reference()


def is_wsgi(scope: Scope) -> bool:
    """Return whether the request arrived over WSGI, so that no event loop of a server handles it."""
    return scope_keys.HAS_NO_LIFESPAN in scope


def _scope_of_meta(request: HttpRequest) -> Scope:
    meta: dict[str, Any] = request.META
    address = meta.get("REMOTE_ADDR")  # empty for a Unix socket
    _, _, version = str(meta.get("SERVER_PROTOCOL", "")).partition("/")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": version or "1.1",
        "method": request.method or "GET",
        "scheme": meta.get("wsgi.url_scheme", "http"),
        "path": request.path or "/",
        "root_path": str(meta.get("SCRIPT_NAME", "")).rstrip("/"),
        "query_string": str(meta.get("QUERY_STRING", "")).encode("latin-1", "replace"),
        "headers": [header for name, value in meta.items() for header in _headers(name, value)],
        "client": (str(address), _port(meta.get("REMOTE_PORT"))) if address else None,
        "server": (str(meta.get("SERVER_NAME", "")), _port(meta.get("SERVER_PORT"))),
        scope_keys.HAS_NO_LIFESPAN: True,
    }


def _headers(name: str, value: object) -> list[tuple[bytes, bytes]]:
    if name.startswith("HTTP_"):
        name = name.removeprefix("HTTP_")
        if name in _CONTENT:
            return []  # a client's header with an underscore, "Content_Length"
    elif name not in _CONTENT or value in {"", None}:
        return []
    values = [str(value)]
    if name == "AUTHORIZATION" and values[0][:7].lower() == "bearer ":
        # Servers join repeated headers by commas, which a token never contains (RFC 6750 §2.1).
        values = values[0].split(",")
    raw_name = name.replace("_", "-").lower().encode("latin-1", "replace")
    return [(raw_name, each.strip().encode("latin-1", "replace")) for each in values]


def _port(value: object) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else 0
