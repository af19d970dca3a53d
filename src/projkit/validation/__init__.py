"""Self-tests of a running kit: the endpoints are called, and credentials are issued, verified and revoked."""
