"""The errors of projkit, with their codes and titles, independent of HTTP.

Every error carries a stable ``code`` (documented in ``docs/errors.md``), a ``title`` that never changes and a
``detail`` for this occurrence. :mod:`projkit.http.problem` is the one place that turns them into responses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """An error in one field of the input.

    ``pointer`` is an RFC 6901 JSON pointer into the body; ``parameter`` names a query parameter or header.
    Exactly one of the two is set.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


class ProjkitError(Exception):
    """The base class of all errors that projkit raises deliberately."""

    code: ClassVar[str] = "internal_error"
    kind: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong"

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None) -> None:
        self.detail = detail or self.title
        self.retry_after = retry_after
        super().__init__(self.detail)


class ConfigurationError(ProjkitError):
    """A setting is invalid; the message names the setting, the problem and the command that fixes it."""

    code = "configuration"
    kind = "configuration"
    title = "The configuration is wrong"


class SchemaOutOfDateError(ConfigurationError):
    """The database schema is not the one that this version requires."""


class MigrationFailedError(ConfigurationError):
    """A migration has stopped; another run continues with the step that it had not finished."""


class InvalidJsonError(ProjkitError):
    code = "invalid_json"
    kind = "invalid-json"
    title = "The request body is not valid JSON"


class BadRequestError(ProjkitError):
    code = "bad_request"
    kind = "bad-request"
    title = "The request is malformed"


class ValidationFailedError(ProjkitError):
    code = "validation_error"
    kind = "validation"
    title = "The request has errors"

    def __init__(self, errors: Sequence[FieldError], title: str | None = None) -> None:
        self.errors = tuple(errors)
        count = len(self.errors)
        super().__init__(self.errors[0].detail if count == 1 else f"{count} fields are invalid")
        if title:
            self.title = title  # type: ignore[misc]  # body and query have titles of their own


class InvalidCursorError(ValidationFailedError):
    code = "invalid_cursor"
    kind = "invalid-cursor"
    title = "The cursor does not belong to this list"

    def __init__(self) -> None:
        detail = "The cursor is invalid for this list, filter and sort order. Start again without a cursor."
        super().__init__([FieldError("invalid_cursor", detail, parameter="cursor")])


class QueryTooCostlyError(ValidationFailedError):
    """A query that exceeded its time limit; ``parameter`` is what the client can change."""

    code = "query_too_costly"
    kind = "query-too-costly"
    title = "The query takes too long"

    def __init__(self, detail: str, *, parameter: str) -> None:
        super().__init__([FieldError("query_too_costly", detail, parameter=parameter)])


class IdempotencyKeyReusedError(ValidationFailedError):
    code = "idempotency_key_reused"
    kind = "idempotency-key-reused"
    title = "The idempotency key was used with another body"

    def __init__(self) -> None:
        detail = "This Idempotency-Key was used with a different body within the last 24 hours."
        super().__init__([FieldError("idempotency_key_reused", detail, parameter="Idempotency-Key")])


class UnauthenticatedError(ProjkitError):
    code = "missing_credentials"
    kind = "unauthenticated"
    title = "Credentials are required"


class InvalidTokenError(UnauthenticatedError):
    code = "invalid_token"
    kind = "invalid-token"
    title = "The access token is not valid"


class AmbiguousCredentialsError(UnauthenticatedError):
    code = "ambiguous_credentials"
    kind = "ambiguous-credentials"
    title = "The request carries the same credential more than once"


class InvalidCredentialsError(UnauthenticatedError):
    code = "invalid_credentials"
    kind = "invalid-credentials"
    title = "The user name or the password is wrong"


class InvalidRefreshTokenError(UnauthenticatedError):
    code = "invalid_refresh_token"
    kind = "invalid-refresh-token"
    title = "The refresh token is not valid; log in again"


class LoginFailedError(UnauthenticatedError):
    """A login at an OpenID provider failed."""

    code = "login_failed"
    kind = "login-failed"
    title = "The login did not succeed; start it again"


class CsrfFailedError(ProjkitError):
    """A request that another site may have caused; ``rule`` names the check that it failed."""

    code = "csrf_failed"
    kind = "csrf-failed"
    title = "The request may come from another site"

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule


class RateLimitedError(ProjkitError):
    """Too many attempts; ``limit`` attempts are allowed per ``window`` seconds."""

    code = "rate_limited"
    kind = "rate-limited"
    title = "Too many attempts; wait before the next one"

    def __init__(self, policy: str, *, limit: int, window: int, retry_after: int) -> None:
        super().__init__(retry_after=retry_after)
        self.policy = policy
        self.limit = limit
        self.window = window


class InsufficientScopeError(ProjkitError):
    code = "insufficient_scope"
    kind = "insufficient-scope"
    title = "The credentials do not allow this"

    def __init__(self, required: str) -> None:
        super().__init__(f"Missing scope: {required}")
        self.required = required


class NotFoundError(ProjkitError):
    code = "not_found"
    kind = "not-found"
    title = "There is nothing here"


class MethodNotAllowedError(ProjkitError):
    code = "method_not_allowed"
    kind = "method-not-allowed"
    title = "The method is not allowed here"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"Allowed methods: {allowed}")
        self.allowed = allowed


class ConflictError(ProjkitError):
    code = "conflict"
    kind = "conflict"
    title = "The request conflicts with the present state"


class ExternalIdTakenError(ConflictError):
    code = "external_id_taken"
    kind = "external-id-taken"
    title = "Another project has this external_id"


class ProjectArchivedError(ConflictError):
    code = "project_archived"
    kind = "project-archived"
    title = "The project is archived; unarchive it before editing"


class UsernameTakenError(ConflictError):
    code = "username_taken"
    kind = "username-taken"
    title = "Another user has this name"


class IdempotencyKeyInUseError(ConflictError):
    code = "idempotency_key_in_use"
    kind = "idempotency-key-in-use"
    title = "A request with this idempotency key is under way"


class PreconditionFailedError(ProjkitError):
    code = "precondition_failed"
    kind = "precondition-failed"
    title = "The project does not meet the precondition"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or "The project has changed since you read it.")


class PreconditionRequiredError(ProjkitError):
    code = "precondition_required"
    kind = "precondition-required"
    title = "Send If-Match with the ETag that you read"


class ContentTooLargeError(ProjkitError):
    code = "content_too_large"
    kind = "content-too-large"
    title = "The request body is too large"
    drained = False  # whether the rest of the body has been read


class UnsupportedMediaTypeError(ProjkitError):
    code = "unsupported_media_type"
    kind = "unsupported-media-type"
    title = "The content type is not supported here"


class RequestTimeoutError(ProjkitError):
    code = "request_timeout"
    kind = "request-timeout"
    title = "The request body did not arrive in time"


class UnavailableError(ProjkitError):
    """A dependency of projkit does not respond; ``retry_after`` is in seconds."""

    code = "service_unavailable"
    kind = "service-unavailable"
    title = "The service cannot answer right now"

    def __init__(self, detail: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class OverloadedError(UnavailableError):
    """The request was rejected because the request queue is full, or because it waited there too long."""

    code = "overloaded"
    kind = "overloaded"
    title = "The service has too much to do right now"
    unread = False  # whether so much of the body is unread that the connection has to be closed


class DatabaseUnavailableError(UnavailableError):
    code = "database_unavailable"
    kind = "database-unavailable"
    title = "The database does not answer"


class SessionStoreUnavailableError(UnavailableError):
    code = "session_store_unavailable"
    kind = "session-store-unavailable"
    title = "The session store does not answer"


class ProviderUnavailableError(UnavailableError):
    """An OpenID provider does not respond, or its response is unusable."""

    code = "provider_unavailable"
    kind = "provider-unavailable"
    title = "The OpenID provider does not answer"


class DatabaseConstraintError(ProjkitError):
    """A unique, foreign-key or check constraint was violated; services translate this into a specific error."""

    code = "conflict"
    kind = "conflict"
    title = "A constraint of the database refused this"

    def __init__(self, constraint: str) -> None:
        super().__init__(f"constraint {constraint}")
        self.constraint = constraint
