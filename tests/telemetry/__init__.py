"""Tests of metrics, their exposition over several workers, and traces."""
