"""What Prometheus knows is what has happened."""

import time

import pytest

from tests.observability.conftest import Scene
from tests.observability.load import counted
from tests.telemetry.otlp import Collector


def test_the_token_is_taken(scene: Scene) -> None:
    """Prometheus reads both servers with the static token, and finds both workers of the one that has two."""
    assert scene.prometheus.value('sum(up{job="projkit"})') == 2
    assert scene.prometheus.value(f'projkit_workers{{instance="{scene.instance}"}}') == 2


COUNTERS = {
    "requests": ("projkit_http_server_request_duration_seconds_count", "method", "route", "status"),
    "logins": ("projkit_auth_logins_total", "method", "outcome"),
    "refreshes": ("projkit_auth_refreshes_total", "outcome"),
    "credentials": ("projkit_auth_credentials_total", "transport", "format", "outcome"),
}


@pytest.mark.parametrize("counter", COUNTERS)
def test_counters_agree_exactly(scene: Scene, counter: str) -> None:
    """What is counted, over both workers, is to the last one what the clients have sent."""
    name, *labels = COUNTERS[counter]
    # Not what Prometheus asks for itself, and the look at readiness with which the scene has begun.
    others = 'route!~"/metrics|.*/ready"'
    found = counted(scene.prometheus.query(f'{name}{{instance="{scene.instance}",{others}}}'), *labels)
    assert found == getattr(scene.load, counter)


def test_buckets_agree_exactly(scene: Scene) -> None:
    """The buckets without an upper bound hold as many as there were, and none has more than a wider one."""
    of = f'{{instance="{scene.instance}",route="/api/v1/projects",method="POST",status="201"}}'
    found = scene.prometheus.query(f"projkit_http_server_request_duration_seconds_bucket{of}")
    by_bound = sorted((float(each["metric"]["le"]), float(each["value"][1])) for each in found)
    numbers = [number for _, number in by_bound]
    assert numbers == sorted(numbers)
    assert by_bound[-1] == (float("inf"), scene.load.requests[("POST", "/api/v1/projects", "201")])


def test_exemplars_lead_to_traces(scene: Scene) -> None:
    """Each exemplar that Prometheus has names a trace that was exported, of the same route, method and status."""
    now = time.time()
    name = "projkit_http_server_request_duration_seconds_bucket"
    found = scene.prometheus.get(
        "/query_exemplars", query=f'{name}{{instance="{scene.instance}"}}', start=now - 600, end=now
    )
    exemplars = [
        (
            each["labels"]["trace_id"],
            *(series["seriesLabels"][label] for label in ("method", "route", "status")),
        )
        for series in found
        for each in series["exemplars"]
    ]
    assert len(exemplars) > 20
    assert len({route for _, _, route, _ in exemplars}) >= 5

    def traces(collector: Collector) -> set[tuple[str, ...]]:
        return {
            (
                span.trace_id, span.attributes["http.request.method"], span.attributes.get("http.route", "__unknown__"),
                str(span.attributes["http.response.status_code"]),
            )
            for span in collector.spans
            if span.kind == "SERVER"
        }  # fmt: skip

    scene.collector.wait(lambda collector: set(exemplars) <= traces(collector))


def test_both_workers_export(scene: Scene) -> None:
    """Each worker sends traces and metrics of its own; no span comes twice, and Prometheus knows of no lost one."""
    scene.collector.wait(
        lambda collector: len({span.resource["process.pid"] for span in collector.spans}) == 2
    )
    ids = [span.span_id for span in scene.collector.spans]
    assert len(set(ids)) == len(ids)
    of = f'instance="{scene.instance}"'
    assert scene.prometheus.value(f'sum(projkit_otel_spans_total{{{of},outcome!="exported"}})') == 0
    assert scene.prometheus.value(f'projkit_otel_spans_total{{{of},outcome="exported"}}') > 50
