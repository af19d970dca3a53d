"""Prometheus' data agrees with the load."""

import time

import pytest

from tests.observability.conftest import Deployment
from tests.observability.load import counted
from tests.telemetry.otlp import Collector


def test_metrics_token(deployment: Deployment) -> None:
    """Prometheus scrapes both servers with the static token, and sees both workers of the server with two."""
    assert deployment.prometheus.value('sum(up{job="projkit"})') == 2
    assert deployment.prometheus.value(f'projkit_workers{{instance="{deployment.instance}"}}') == 2


COUNTERS = {
    "requests": ("projkit_http_server_request_duration_seconds_count", "method", "route", "status"),
    "logins": ("projkit_auth_logins_total", "method", "outcome"),
    "refreshes": ("projkit_auth_refreshes_total", "outcome"),
    "credentials": ("projkit_auth_credentials_total", "transport", "format", "outcome"),
}


@pytest.mark.parametrize("counter", COUNTERS)
def test_counters_agree_exactly(deployment: Deployment, counter: str) -> None:
    """The counts over both workers are exactly what the client has sent."""
    name, *labels = COUNTERS[counter]
    # Without the scrapes of Prometheus and the readiness probe at the start.
    others = 'route!~"/metrics|.*/ready"'
    found = counted(
        deployment.prometheus.query(f'{name}{{instance="{deployment.instance}",{others}}}'), *labels
    )
    assert found == getattr(deployment.load, counter)


def test_buckets_agree_exactly(deployment: Deployment) -> None:
    """The last bucket has exactly the number of requests, and the buckets are cumulative."""
    of = f'{{instance="{deployment.instance}",route="/api/v1/projects",method="POST",status="201"}}'
    found = deployment.prometheus.query(f"projkit_http_server_request_duration_seconds_bucket{of}")
    by_bound = sorted((float(each["metric"]["le"]), float(each["value"][1])) for each in found)
    numbers = [number for _, number in by_bound]
    assert numbers == sorted(numbers)
    assert by_bound[-1] == (float("inf"), deployment.load.requests[("POST", "/api/v1/projects", "201")])


def test_exemplars_lead_to_traces(deployment: Deployment) -> None:
    """Each exemplar names an exported trace with the same route, method and status."""
    now = time.time()
    name = "projkit_http_server_request_duration_seconds_bucket"
    found = deployment.prometheus.get(
        "/query_exemplars", query=f'{name}{{instance="{deployment.instance}"}}', start=now - 600, end=now
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

    deployment.collector.wait(lambda collector: set(exemplars) <= traces(collector))


def test_both_workers_export(deployment: Deployment) -> None:
    """Each worker exports traces; no span arrives twice, and none is counted as lost."""
    deployment.collector.wait(
        lambda collector: len({span.resource["process.pid"] for span in collector.spans}) == 2
    )
    ids = [span.span_id for span in deployment.collector.spans]
    assert len(set(ids)) == len(ids)
    of = f'instance="{deployment.instance}"'
    assert deployment.prometheus.value(f'sum(projkit_otel_spans_total{{{of},outcome!="exported"}})') == 0
    assert deployment.prometheus.value(f'projkit_otel_spans_total{{{of},outcome="exported"}}') > 50
