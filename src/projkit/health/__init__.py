"""Health checks that run in the background, and endpoints that report their latest results."""

from projkit.health.checks import CheckFailedError, HealthCheck

__all__ = ["CheckFailedError", "HealthCheck"]
