"""What OpenTelemetry is told: traces of requests, and counts for a MeterProvider."""
