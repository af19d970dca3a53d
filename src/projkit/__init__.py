"""projkit: a projects API with authentication, health and monitoring for any ASGI application."""

from importlib.metadata import version

__version__ = version("projkit")

from projkit.errors import ConfigurationError, ProjkitError
from projkit.identity import Principal
from projkit.kit import ProjKit
from projkit.settings import Settings

__all__ = ["ConfigurationError", "Principal", "ProjKit", "ProjkitError", "Settings", "__version__"]
