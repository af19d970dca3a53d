"""OpenTelemetry: traces of requests, and metrics for a MeterProvider."""
