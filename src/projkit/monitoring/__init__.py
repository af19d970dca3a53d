"""Reports of a kit on its requests, its database and its environment."""

from projkit.monitoring.middleware import PerformanceMiddleware

__all__ = ["PerformanceMiddleware"]
