"""Request and response bodies of ``/auth``."""

from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, StringConstraints

from projkit.auth.users import MAX_USERNAME_LENGTH, username_key
from projkit.http.query import PageLimit

_MAX_KEY_BYTES = 4 * MAX_USERNAME_LENGTH


def _check_key(username: str) -> str:
    # NFKC may turn one letter into eighteen, and an index limits the length of its values.
    if len(username_key(username).encode()) > _MAX_KEY_BYTES:
        raise ValueError("The name is too long after Unicode normalization")
    return username


# The allowed characters are the host's decision; only control characters are rejected.
Username = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=MAX_USERNAME_LENGTH,
        pattern=r"^[^\x00-\x1f\x7f]+$",
    ),
    AfterValidator(_check_key),
]
Password = Annotated[str, Field(min_length=1, max_length=1024)]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, strict=True)


class LoginInput(_Input):
    """A login with name and password; ``transport`` selects tokens in the body or in cookies only."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"username": "alice", "password": "correct horse battery staple", "transport": "cookie"}
            ]
        }
    )

    username: Username
    password: Password
    transport: Literal["body", "cookie"] = "body"
    tenant: Annotated[str, Field(max_length=255)] = ""


class RefreshInput(_Input):
    """The refresh token, if it is not sent as a cookie."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    refresh_token: Annotated[str, Field(min_length=1, max_length=2048)] | None = None


class PasswordInput(_Input):
    """The current and the new password."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "old_password": "correct horse battery staple",
                    "new_password": "seven quiet otters under ice",
                }
            ]
        }
    )

    old_password: Annotated[Password, Field(validation_alias=AliasChoices("old_password", "old"))]
    new_password: Annotated[Password, Field(validation_alias=AliasChoices("new_password", "new"))]


class RegistrationInput(_Input):
    """The name and password of a new user."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"username": "bob", "password": "seven quiet otters under ice"}]}
    )

    username: Username
    password: Password
    tenant: Annotated[str, Field(max_length=255)] = ""


class Login(BaseModel):
    """A new or refreshed session; the tokens are absent if they are only in cookies."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "access_token": "eyJ0eXAiOiJhdCtqd3Qi…",
                    "token_type": "Bearer",
                    "expires_in": 900,
                    "refresh_token": "AXqLm3…",
                    "refresh_expires_in": 86400,
                    "csrf_token": "AZ4k0c…",
                    "session_id": "0vYq8n…",
                }
            ]
        }
    )

    access_token: str | None = None
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  # a scheme
    expires_in: int
    refresh_token: str | None = None
    refresh_expires_in: int
    csrf_token: str
    session_id: str


class SessionInfo(BaseModel):
    """The current user and the credentials in use."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "subject": "alice",
                    "scopes": ["projects:read", "projects:write"],
                    "session_id": "0vYq8n…",
                    "token_format": "enhanced",
                    "expires_at": "2026-02-11T09:45:00.000000Z",
                }
            ]
        }
    )

    subject: str
    scopes: list[str]
    session_id: str | None
    token_format: str | None
    expires_at: str | None


class ListedSession(BaseModel):
    """A session of the user."""

    id: str
    current: bool
    transport: str
    user_agent: str
    address: str
    created_at: str
    used_at: str
    expires_at: str


class SessionList(BaseModel):
    """A page of the active sessions of the user, newest first; the last page has no ``next_cursor``."""

    items: list[ListedSession]
    next_cursor: str | None


class SessionQuery(BaseModel):
    """The query parameters of the list of sessions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: PageLimit = Field(default=20, description="The maximum number of sessions in the page.")
    cursor: str | None = Field(default=None, description="The opaque `next_cursor` of the previous page.")


class CsrfValue(BaseModel):
    """The CSRF token; the cookie contains the same value."""

    csrf_token: str


class Registered(BaseModel):
    """A new user."""

    subject: str
    username: str


class JsonWebKeySet(BaseModel):
    """A JSON Web Key Set (RFC 7517) of public keys."""

    keys: list[dict[str, object]]
