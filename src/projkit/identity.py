"""Who is asking."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

ADMIN: Final = "admin"
DEFAULT_SCOPES: Final = ("projects:read", "projects:write")
KNOWN_SCOPES: Final = ("projects:read", "projects:write", "monitoring:read", "metrics:read", ADMIN)



def _no_claims() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    ``subject`` owns the projects it creates; ``tenant_id`` is ``""`` where there is a single tenant.
    """

    subject: str
    scopes: frozenset[str] = frozenset(DEFAULT_SCOPES)
    session_id: str | None = None
    token_format: str | None = None
    claims: Mapping[str, Any] = field(default_factory=_no_claims, compare=False, repr=False)
    tenant_id: str = ""

    def allows(self, scope: str) -> bool:
        """Whether this caller has ``scope``; ``admin`` has them all."""
        return scope in self.scopes or ADMIN in self.scopes
