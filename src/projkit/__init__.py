"""projkit: a projects API with authentication, health and monitoring for any ASGI application."""

from projkit.errors import ConfigurationError, ProjkitError
from projkit.identity import Principal
from projkit.kit import ProjKit
from projkit.settings import Settings
from projkit.version import __version__

__all__ = ["ConfigurationError", "Principal", "ProjKit", "ProjkitError", "Settings", "__version__"]
