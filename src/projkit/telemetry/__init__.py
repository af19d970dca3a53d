"""Telemetry of a kit: metrics over all workers, their exposition, and traces."""
