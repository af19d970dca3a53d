"""What Prometheus knows is what has happened."""

from collections import Counter

from tests.observability.conftest import Scene
from tests.observability.load import counted


def test_the_token_is_taken(scene: Scene) -> None:
    """Prometheus reads both servers with the static token, in OpenMetrics; without it nobody does from elsewhere."""
    assert scene.prometheus.value('sum(up{job="projkit"})') == 2
    assert scene.prometheus.value(f'projkit_workers{{instance="{scene.instance}"}}') == 2


def test_counters_agree_exactly(scene: Scene) -> None:
    """Requests, logins, refreshes and credentials are to the last one what the clients have sent, over both workers."""
    of = f'{{instance="{scene.instance}"}}'
    for name, labels, expected in (
        ("projkit_http_server_request_duration_seconds_count", ("method", "route", "status"), scene.load.requests),
        ("projkit_auth_logins_total", ("method", "outcome"), scene.load.logins),
        ("projkit_auth_refreshes_total", ("outcome",), Counter({(key,): n for key, n in scene.load.refreshes.items()})),
        ("projkit_auth_credentials_total", ("transport", "format", "outcome"), scene.load.credentials),
    ):
        found = counted(scene.prometheus.query(name + of), *labels)
        if "route" in labels:  # Prometheus' own requests, and the start's look at readiness, are nobody's of the load
            found = Counter({key: n for key, n in found.items() if key[1] not in {"/metrics", "/api/v1/health/ready"}})
        assert found == expected, name


def test_buckets_agree_exactly(scene: Scene) -> None:
    """The buckets without an upper bound hold as many as there were, and none has more than a wider one."""
    of = f'{{instance="{scene.instance}",route="/api/v1/projects",method="POST",status="201"}}'
    found = scene.prometheus.query(f"projkit_http_server_request_duration_seconds_bucket{of}")
    by_bound = sorted((float(each["metric"]["le"]), float(each["value"][1])) for each in found)
    numbers = [number for _, number in by_bound]
    assert numbers == sorted(numbers)
    assert by_bound[-1] == (float("inf"), scene.load.requests[("POST", "/api/v1/projects", "201")])
