"""gunicorn ``--preload``: three workers that were forked from a process in which the kit exists already."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.hosts.conftest import Served, started

WORKERS = 3
REQUESTS = 90
PROJECTS = "/api/v1/projects"
WARNING = "was started before this process was forked"


@pytest.fixture(params=["created", "started"])
def served(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Iterator[tuple[str, Served]]:
    """A server whose parent process has created, or started, the kit."""
    variables = {
        "PRELOAD": request.param,
        "PROJKIT_DATABASE_URL": postgres_url,
        "PROJKIT_METRICS_DIRECTORY": str(tmp_path / "metrics"),
    }
    with started("gunicorn", "tests.hosts.preloaded_app:app", tmp_path, "/pid", variables) as server:
        yield request.param, server


def test_workers_share_no_ids(served: tuple[str, Served]) -> None:
    """Ids of requests, traces, spans and projects, and CSRF tokens, are distinct over all workers; each is counted."""
    preloaded, server = served
    with server.client(scopes=("projects:read", "projects:write", "metrics:read")) as client:
        headers = {**client.headers, "Connection": "close"}

    def send(_: int) -> tuple[str, dict[str, str]]:
        """Send requests on connections of their own, so that the workers share them."""
        page = httpx2.get(f"{server.url}/pid", headers=headers, timeout=20)
        created = httpx2.post(f"{server.url}{PROJECTS}", headers=headers, json={"name": "Roof"}, timeout=20)
        assert created.status_code == 201, created.text
        csrf = httpx2.get(f"{server.url}/api/v1/auth/csrf", headers=headers, timeout=20)
        trace_id, span_id = created.headers["traceresponse"].split("-")[1:3]
        return page.text, {
            "request id of the host": page.headers["x-request-id"],
            "request id": created.headers["x-request-id"],
            "trace id": trace_id,
            "span id": span_id,
            "project": created.json()["id"],
            "CSRF token": csrf.json()["csrf_token"],
        }

    with ThreadPoolExecutor(9) as threads:
        answers = list(threads.map(send, range(REQUESTS)))
    assert len({pid for pid, _ in answers}) == WORKERS
    ids = [each for _, each in answers]
    for kind in ids[0]:
        assert len({each[kind] for each in ids}) == REQUESTS, kind
    request_ids = [each[kind] for each in ids for kind in ("request id", "request id of the host")]
    assert len(set(request_ids)) == 2 * REQUESTS
    prefixes = Counter(each["request id"].partition("-")[0] for each in ids)
    assert len(prefixes) == WORKERS
    metrics = httpx2.get(f"{server.url}/metrics", headers=headers, timeout=20).text
    parent = preloaded == "started"  # has started the kit too, so that it counts as a process
    assert sample(metrics, "projkit_workers") == WORKERS + parent
    labels = {"method": "POST", "status": "201"}
    assert sample(metrics, "projkit_http_server_request_duration_seconds_count", **labels) == REQUESTS
    assert server.log.count(WARNING) == (WORKERS if preloaded == "started" else 0)
    assert "Traceback" not in server.log


def sample(text: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    return sum(
        each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == name and labels.items() <= each.labels.items()
    )
