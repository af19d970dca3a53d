"""Tests of every host framework on every server."""
