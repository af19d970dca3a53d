"""The caller of a request: an authenticated principal, or an anonymous one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

MAX_SUBJECT_LENGTH: Final = 255
ADMIN: Final = "admin"
DEFAULT_SCOPES: Final = ("projects:read", "projects:write")
# The subject of the kit's self-tests. The rows that they create carry this subject and are deleted afterwards.
VALIDATION_SUBJECT: Final = "urn:projkit:validation"
KNOWN_SCOPES: Final = ("projects:read", "projects:write", "monitoring:read", "metrics:read", ADMIN)


def _no_claims() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    ``subject`` owns the projects it creates; ``tenant_id`` is ``""`` with a single tenant.

    Raises:
        ValueError: one of the two cannot be stored as text, or is longer than 255 characters.
    """

    subject: str
    scopes: frozenset[str] = frozenset(DEFAULT_SCOPES)
    session_id: str | None = None
    token_format: str | None = None
    claims: Mapping[str, Any] = field(default_factory=_no_claims, compare=False, repr=False)
    tenant_id: str = ""

    def __post_init__(self) -> None:
        for name in ("subject", "tenant_id"):
            value = getattr(self, name)
            if len(value) > MAX_SUBJECT_LENGTH or "\0" in value:
                raise ValueError(f"{name} must have at most {MAX_SUBJECT_LENGTH} characters, and no U+0000")
            value.encode()  # lone surrogates cannot be stored
        if not self.subject:
            raise ValueError("subject must not be empty")

    @property
    def is_authenticated(self) -> bool:
        """True; frameworks read it."""
        return True

    @property
    def display_name(self) -> str:
        """The subject, under the name that frameworks use for a display name."""
        return self.subject

    @property
    def identity(self) -> str:
        """The subject, under the name that frameworks use for an id."""
        return self.subject

    def allows(self, scope: str) -> bool:
        """Return whether this caller has ``scope``; ``admin`` includes every scope."""
        return scope in self.scopes or ADMIN in self.scopes

    def with_scopes(self, scopes: frozenset[str]) -> "Principal":
        """Return this caller with other scopes."""
        return replace(self, scopes=scopes)


@dataclass(frozen=True, slots=True)
class HostCredential:
    """A caller that the host's ``get_principal`` found, and whether the kit must check the request's origin.

    ``cookie`` is True if a cookie (or anything else that browsers send by themselves) authenticated the request, so
    that a page of another site could have caused it. It is False if only the client itself can have sent the
    credential, or if the host has checked the request against forgery.
    """

    principal: Principal
    cookie: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """A failed login that the host's ``authenticate`` attributes to an account, so that it counts against this account.

    ``subject`` and ``tenant_id`` are those of the :class:`Principal` that the right password would have returned.
    """

    subject: str
    tenant_id: str = ""


class NotMine(Enum):
    """The type of :data:`NOT_MINE`."""

    NOT_MINE = "not mine"


# Returned by the host's get_principal for a request without the host's credentials: the kit then reads its own.
NOT_MINE: Final = NotMine.NOT_MINE


class Anonymous:
    """An unauthenticated caller with the attributes of a :class:`Principal` and no scopes."""

    __slots__ = ()

    subject: Final = ""
    scopes: Final[frozenset[str]] = frozenset()
    session_id: Final = None
    token_format: Final = None
    claims: Final[Mapping[str, Any]] = MappingProxyType({})
    tenant_id: Final = ""
    is_authenticated: Final = False
    display_name: Final = ""
    identity: Final = ""

    def allows(self, scope: str) -> bool:
        """Return False."""
        return False


ANONYMOUS: Final = Anonymous()
