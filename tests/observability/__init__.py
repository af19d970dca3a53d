"""Tests of the shipped rules and dashboards with a real Prometheus, Alertmanager and servers under load."""
