"""The shipped rules and dashboards against a real Prometheus, a real Alertmanager, and real servers under load."""
