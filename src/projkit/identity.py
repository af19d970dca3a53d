"""Who is asking."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

MAX_SUBJECT_LENGTH: Final = 255
ADMIN: Final = "admin"
DEFAULT_SCOPES: Final = ("projects:read", "projects:write")
# In whose name a kit tries itself out; what it makes is marked with this and a colon, and gone when it has ended.
VALIDATION_SUBJECT: Final = "urn:projkit:validation"
KNOWN_SCOPES: Final = ("projects:read", "projects:write", "monitoring:read", "metrics:read", ADMIN)


def _no_claims() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    ``subject`` owns the projects it creates; ``tenant_id`` is ``""`` where there is a single tenant.

    Raises:
        ValueError: one of the two is no text that can be stored, or longer than 255 characters.
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
        """That this is somebody, where frameworks ask."""
        return True

    @property
    def display_name(self) -> str:
        """The subject, where frameworks look for a name to show."""
        return self.subject

    @property
    def identity(self) -> str:
        """The subject, where frameworks look for an id."""
        return self.subject

    def allows(self, scope: str) -> bool:
        """Whether this caller has ``scope``; ``admin`` has them all."""
        return scope in self.scopes or ADMIN in self.scopes


class Anonymous:
    """Nobody, where frameworks expect somebody; it looks like a :class:`Principal` and may do nothing."""

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
        """Never."""
        return False


ANONYMOUS: Final = Anonymous()
