"""Conversion of errors to ``application/problem+json`` responses (RFC 9457); nothing else does it.

Code and title come from the class of the error (:mod:`projkit.errors`); status and headers are chosen here.
"""

import logging
from typing import Any, Final

import orjson

from projkit import errors
from projkit.http import scope_keys
from projkit.http.request import Request
from projkit.http.response import PRIVATE, Header, Response
from projkit.http.timing import UNKNOWN_ROUTE, request_fields
from projkit.http.tracing import trace_id_of
from projkit.http.url_paths import encode_path
from projkit.log_limit import LogLimit

logger: Final = logging.getLogger("projkit")

traceback_limit: Final = LogLimit(logger, "tracebacks")

PROBLEM_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:projkit:problem:"

# The most specific class along the MRO decides.
STATUS: Final[dict[type[errors.ProjkitError], int]] = {
    errors.BadRequestError: 400,
    errors.InvalidJsonError: 400,
    errors.UnauthenticatedError: 401,
    errors.InsufficientScopeError: 403,
    errors.CsrfFailedError: 403,
    errors.NotFoundError: 404,
    errors.MethodNotAllowedError: 405,
    errors.RequestTimeoutError: 408,
    errors.ConflictError: 409,
    errors.DatabaseConstraintError: 409,
    errors.PreconditionFailedError: 412,
    errors.ContentTooLargeError: 413,
    errors.UnsupportedMediaTypeError: 415,
    errors.ValidationFailedError: 422,
    errors.PreconditionRequiredError: 428,
    errors.RateLimitedError: 429,
    errors.ProjkitError: 500,
    errors.UnavailableError: 503,
}
_status_cache: Final[dict[type[errors.ProjkitError], int]] = {}  # includes subclasses


def status_of(error: type[errors.ProjkitError]) -> int:
    """Return the HTTP status for a class of errors."""
    status = _status_cache.get(error)
    if status is None:
        status = _status_cache[error] = next(STATUS[base] for base in error.__mro__ if base in STATUS)
    return status


def problem_response(error: errors.ProjkitError, request: Request) -> Response:
    """Return the problem document for an error."""
    status = status_of(type(error))
    if status == 500:
        error = errors.ProjkitError()  # a 500 reveals no internals
    content: dict[str, Any] = {
        "type": TYPE_PREFIX + error.kind,
        "title": error.title,
        "status": status,
        "detail": error.detail,
        "instance": encode_path(request.root_path + request.path),
        "code": error.code,
        "request_id": request.request_id,
    }
    if (trace_id := trace_id_of(request.scope)) is not None:
        content["trace_id"] = trace_id
    if isinstance(error, errors.ValidationFailedError):
        content["errors"] = [_field(each) for each in error.errors]
    elif isinstance(error, errors.CsrfFailedError):
        content["rule"] = error.rule
    headers = ((b"content-type", PROBLEM_TYPE.encode()), *headers_of(error))
    return Response(status, orjson.dumps(content), headers)


def unhandled(error: Exception, request: Request) -> Response:
    """Log an unexpected exception with its traceback, and return the response with status 500."""
    error_type = request.scope[scope_keys.ERROR_TYPE] = type(error).__name__
    if (trace := request.scope.get(scope_keys.TRACE)) is not None:
        trace.set_error(error_type)
    route = request.scope.get(scope_keys.ROUTE) or UNKNOWN_ROUTE
    fields = request_fields(request.scope, route)
    logger.error(
        "unhandled %s in %s %s, request %s%s",
        error_type,
        request.method,
        route,
        request.request_id,
        f", trace {fields['trace_id']}" if "trace_id" in fields else "",
        # Each request has its line, so that its id is found; the traceback is not repeated for all of them.
        exc_info=error if traceback_limit.allows(f"{error_type} in {route}") else None,
        extra=fields,
    )
    return problem_response(errors.ProjkitError(), request)


def _field(error: errors.FieldError) -> dict[str, str]:
    where = {"pointer": error.pointer} if error.pointer is not None else {"parameter": error.parameter or ""}
    return {**where, "code": error.code, "detail": error.detail}


def headers_of(error: errors.ProjkitError) -> tuple[Header, ...]:
    """Return the headers for an error, such as ``WWW-Authenticate`` and ``Retry-After``."""
    headers: list[Header] = [*PRIVATE]
    if isinstance(error, errors.UnauthenticatedError):
        headers.append((b"www-authenticate", _challenge(error)))
    elif isinstance(error, errors.InsufficientScopeError):
        challenge = f'Bearer realm="projkit", error="insufficient_scope", scope="{error.required}"'
        headers.append((b"www-authenticate", challenge.encode()))
    elif isinstance(error, errors.RateLimitedError):
        # draft-ietf-httpapi-ratelimit-headers-10
        policy = f'"{error.policy}";q={error.limit};w={error.window}'
        headers.append((b"ratelimit-policy", policy.encode()))
        headers.append((b"ratelimit", f'"{error.policy}";r=0;t={error.retry_after}'.encode()))
    elif isinstance(error, errors.MethodNotAllowedError):
        headers.append((b"allow", error.allowed.encode()))
    elif (
        isinstance(error, errors.RequestTimeoutError)
        or (isinstance(error, errors.ContentTooLargeError) and not error.drained)
        or (isinstance(error, errors.OverloadedError) and error.unread)
    ):
        headers.append((b"connection", b"close"))
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    return tuple(headers)


def _challenge(error: errors.UnauthenticatedError) -> bytes:
    # RFC 6750 §3.1: no error code for a request without credentials.
    if isinstance(error, errors.InvalidTokenError):
        return b'Bearer realm="projkit", error="invalid_token"'
    if isinstance(error, errors.AmbiguousCredentialsError):
        return b'Bearer realm="projkit", error="invalid_request"'
    return b'Bearer realm="projkit"'
