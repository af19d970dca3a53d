"""projkit: a projects API with authentication, health and monitoring for any ASGI application."""

from projkit.errors import ConfigurationError, ProjkitError
from projkit.identity import NOT_MINE, HostCredential, NotMine, Principal, Rejected
from projkit.kit import ProjKit
from projkit.settings import Settings
from projkit.version import __version__

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
