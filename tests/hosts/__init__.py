"""Every host on every server."""
