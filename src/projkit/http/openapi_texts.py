"""Texts of the OpenAPI document that all endpoints share: tags, statuses and headers."""

from collections.abc import Mapping
from typing import Any, Final

SUMMARY: Final = "A projects API with authentication, health checks and monitoring."

TAGS: Final[Mapping[str, str]] = {
    "projects": "The projects of the caller. Other callers cannot see them.",
    "auth": "Login, logout, sessions and public keys.",
    "health": "Health of the service, and probes for orchestrators and load balancers.",
    "monitoring": "Reports on requests, the database and the process, and self-tests.",
    "telemetry": "Metrics for Prometheus.",
}

STATUS_DESCRIPTIONS: Final[Mapping[int, str]] = {
    400: "The body is not valid JSON (RFC 8259), has duplicate names or is nested too deeply.",
    401: "The credentials are missing or invalid.",
    403: (
        "The credentials lack the required scope, or a request with cookies failed the CSRF check; `rule` then names "
        "the rule that failed."
    ),
    404: "The resource does not exist, or it belongs to another user.",
    408: "The body did not arrive in time.",
    409: "The request conflicts with the current state of the resource.",
    412: "The ETag in `If-Match` is not the current one, or not one of a project; `detail` says which.",
    413: "The body is too large.",
    415: "The content type is not supported.",
    422: "The request has invalid values; `errors` lists them.",
    428: "The request requires an `If-Match` header.",
    429: "There were too many attempts. Retry after the time given in the `Retry-After` header.",
    500: "An unexpected error occurred. The server's log has the details under the request id.",
    503: (
        "A required service is unavailable, or the server is overloaded. Retry after the time given in the "
        "`Retry-After` header."
    ),
}

RESPONSE_HEADERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "ETag": ("The version of the resource, for `If-Match` and `If-None-Match`.", {"type": "string"}),
    "Location": (
        "The URL of the created resource, or of the redirect target.",
        {"type": "string", "format": "uri-reference"},
    ),
    "Link": ("The URL of the next page (RFC 8288); absent on the last page.", {"type": "string"}),
    "Idempotent-Replayed": (
        "`true` if this is the response to an earlier request with the same `Idempotency-Key`.",
        {"type": "string", "const": "true"},
    ),
    "Set-Cookie": ("The cookies of the session.", {"type": "string"}),
    "RateLimit": (
        "The remaining quota and the seconds until it resets (draft-ietf-httpapi-ratelimit-headers).",
        {"type": "string"},
    ),
    "RateLimit-Policy": ("The quota and its time window.", {"type": "string"}),
    "Allow": ("The allowed methods.", {"type": "string"}),
    "Retry-After": (
        "The number of seconds to wait before the next attempt.",
        {"type": "integer", "minimum": 0},
    ),
    "WWW-Authenticate": ("The authentication challenge (RFC 6750).", {"type": "string"}),
    "X-Request-ID": ("The id of the request, as in the server's log.", {"type": "string"}),
    "X-Process-Time": (
        "The processing time in seconds, up to the response headers.",
        {"type": "string", "pattern": r"^\d+\.\d{6}$"},
    ),
    "Server-Timing": (
        "The processing time in milliseconds: in total (`app`) and in the database (`db`).",
        {"type": "string"},
    ),
    "X-Content-Type-Options": ("Always `nosniff`.", {"type": "string", "const": "nosniff"}),
    "Cache-Control": ("The caching rules of the response.", {"type": "string"}),
    "Vary": ("The request headers that determine the response.", {"type": "string"}),
    "Connection": ("`close` if the server does not read the rest of the body.", {"type": "string"}),
}

_ENTITY_TAG: Final = r'(W/)?"[\x21\x23-\x7e]*"'
_ENTITY_TAGS: Final = rf"^(\*|{_ENTITY_TAG}( ?, ?{_ENTITY_TAG})*)$"

REQUEST_HEADERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "X-Projkit-Check": ("A signed time.", {"type": "string"}),
    "Idempotency-Key": (
        "A unique key that makes the request safe to retry: for 24 hours, repeating it returns the first response.",
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": r"^[\x20-\x7e]{1,255}$",
            "examples": ["8e03978e-40d5-43e8-bc93-6894a57f9324"],
        },
    ),
    "If-Match": (
        "Apply the change only if the resource has this ETag; `*` matches any. `W/` and a suffix `-gzip` are ignored.",
        {"type": "string", "pattern": _ENTITY_TAGS, "examples": ['"1"']},
    ),
    "If-None-Match": (
        "Return the resource only if it does not have this ETag; otherwise return 304.",
        {"type": "string", "pattern": _ENTITY_TAGS, "examples": ['"1"']},
    ),
}
