"""Guards of a host's own routes."""
