"""projkit: a projects API with authentication, health and monitoring for any ASGI application."""

from typing import TYPE_CHECKING, Any

from projkit.errors import ConfigurationError, ProjkitError
from projkit.identity import NOT_MINE, HostCredential, NotMine, Principal, Rejected
from projkit.settings import Settings
from projkit.version import __version__

if TYPE_CHECKING:
    from projkit.kit import ProjKit

__all__ = [
    "NOT_MINE",
    "ConfigurationError",
    "HostCredential",
    "NotMine",
    "Principal",
    "ProjKit",
    "ProjkitError",
    "Rejected",
    "Settings",
    "__version__",
]


if not TYPE_CHECKING:  # type checkers would otherwise accept any name

    def __getattr__(name: str) -> Any:
        """Import the kit when it is first used: a host's migrations import only :mod:`projkit.alembic`."""
        if name != "ProjKit":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from projkit.kit import ProjKit  # noqa: PLC0415

        globals()[name] = ProjKit
        return ProjKit


def __dir__() -> list[str]:
    """Name the kit as well before it is imported, for completion in shells."""
    return sorted({*globals(), *__all__})
