"""HTTP: timing, concurrency limit, routing, bodies, problem details and OpenAPI."""
