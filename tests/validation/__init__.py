"""Tests of the self-tests."""
