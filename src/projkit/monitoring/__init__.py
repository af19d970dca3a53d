"""What a kit knows of itself: figures, validations, and where it runs."""

from projkit.monitoring.middleware import PerformanceMiddleware

__all__ = ["PerformanceMiddleware"]
