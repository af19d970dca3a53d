"""Tests of the monitoring reports."""
