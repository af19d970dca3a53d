"""Health: checks that a background task runs, and probes that only read what it has seen."""

from projkit.health.checks import CheckFailedError, HealthCheck

__all__ = ["CheckFailedError", "HealthCheck"]
