"""projkit: a projects API with authentication, health and monitoring for any ASGI application."""

from importlib.metadata import version

__version__ = version("projkit")
