"""Exemplars: each exported bucket has the latest request with a trace."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from projkit.telemetry import exemplars
from projkit.telemetry.buckets import EXPORTED_BOUNDS
from projkit.telemetry.collector import RecorderCollector
from projkit.telemetry.exposition import KitRegistry, render
from projkit.telemetry.families import EXEMPLARS, HTTP
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.snapshot import KitInfo
from projkit.telemetry.store import MmapStore, Sample

pytestmark = pytest.mark.anyio
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
GET = ("GET", "/things/{thing_id}", 200)
FIRST = "0af7651916cd43dd8448eb211c80319c"
SECOND = "ffffffffffffffffffffffffffffffff"
THIRD = "00000000000000000000000000000001"
IDS = st.integers(min_value=1, max_value=2**128 - 1).map("{:032x}".format)
SECONDS = st.floats(min_value=0, max_value=100)


def registry_of(recorder: Recorder) -> KitRegistry:
    """Return a registry for a recorder."""
    return KitRegistry(RecorderCollector(recorder, KitInfo("1.2.3")))


async def metric_values(recorder: Recorder, route: str = GET[1]) -> dict[str, Any]:
    """Return the exemplars of a route's buckets by bound."""
    body, _ = await render(registry_of(recorder), OPENMETRICS)
    return {
        sample.labels["le"]: sample.exemplar
        for family in parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None and sample.labels.get("route") == route
    }


async def ids(recorder: Recorder) -> dict[str, str]:
    """Return the exemplars' trace ids by bound."""
    return {bound: each.labels["trace_id"] for bound, each in (await metric_values(recorder)).items()}


async def test_the_newest_of_each_bucket() -> None:
    """Each bucket has its latest request, with duration and time; buckets without a trace have none."""
    recorder = Recorder()
    before = time.time()
    recorder.record_request(*GET, 0.003, FIRST)
    recorder.record_request(*GET, 0.005, SECOND)
    recorder.record_request(*GET, 0.2, FIRST)
    recorder.record_request(*GET, 0.3, None)
    recorder.record_request(*GET, 99.0, THIRD)
    found = await metric_values(recorder)
    assert {bound: (each.labels, each.value) for bound, each in found.items()} == {
        "0.005": ({"trace_id": SECOND}, 0.005),
        "0.25": ({"trace_id": FIRST}, 0.2),
        "+Inf": ({"trace_id": THIRD}, 99.0),
    }
    assert all(before - 0.01 <= float(each.timestamp) <= time.time() + 0.01 for each in found.values())


async def test_the_text_format_has_none() -> None:
    """The text format has no exemplars, and is the same as without traces."""
    with_traces, without = Recorder(), Recorder()
    with_traces.record_request(*GET, 0.003, FIRST)
    without.record_request(*GET, 0.003)
    bodies = [
        (await render(registry_of(each), ""))[0].partition(b"# HELP projkit_process")[0]
        for each in (with_traces, without)
    ]
    assert bodies[0] == bodies[1]
    assert list(parse(bodies[0].decode()))


def test_nothing_without_traces() -> None:
    """No exemplars are stored before the first trace id."""
    recorder = Recorder()
    recorder.record_request(*GET, 0.003)
    assert not [key for key in recorder.read() if key[0] == EXEMPLARS.name]
    recorder.record_request(*GET, 0.003, FIRST)
    assert [key for key in recorder.read() if key[0] == EXEMPLARS.name]


async def test_the_newest_of_all_workers(tmp_path: Path) -> None:
    """With several workers each bucket shows the latest request, even if its worker has ended."""
    recorder = Recorder(tmp_path)
    recorder.record_request(*GET, 0.003, FIRST)
    recorder.record_request(*GET, 0.2, FIRST)
    script = f"""
import pathlib
from projkit.telemetry.recorder import Recorder
recorder = Recorder(pathlib.Path({str(tmp_path)!r}))
recorder.record_request(*{GET!r}, 0.003, {SECOND!r})
recorder.record_request(*{GET!r}, 2.0, {SECOND!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert await ids(recorder) == {"0.005": SECOND, "0.25": FIRST, "2.5": SECOND}
    recorder.read()  # which retires what the ended one has left
    assert await ids(recorder) == {"0.005": SECOND, "0.25": FIRST, "2.5": SECOND}
    recorder.record_request(*GET, 0.003, THIRD)
    assert await ids(recorder) == {"0.005": THIRD, "0.25": FIRST, "2.5": SECOND}


def written(seconds: float, trace_id: str) -> list[float]:
    """Return the exemplars after one request."""
    row = [0.0] * exemplars.WIDTH
    exemplars.write(row, seconds, trace_id)
    return row


@given(IDS, SECONDS)
def test_read_as_written(trace_id: str, seconds: float) -> None:
    """Every trace id is read as written, from lists and files, in the bucket of its duration."""
    row = MmapStore(memoryview(bytearray(4096))).add((EXEMPLARS.name, ()), EXEMPLARS.width)
    assert row is not None
    exemplars.write(row, seconds, trace_id)
    for cells in (list(row), written(seconds, trace_id)):
        (found,) = [each for each in exemplars.read(cells) if each is not None]
        assert (found.trace_id, found.seconds) == (trace_id, seconds)
    bounds = [*EXPORTED_BOUNDS, float("inf")]
    index = next(at for at, each in enumerate(exemplars.read(list(row))) if each is not None)
    assert seconds <= bounds[index]
    assert index == 0 or seconds > bounds[index - 1]


def mixed(row: Sample, other: Sequence[float], taken: Sequence[bool]) -> list[float]:
    """Return values some of which have been overwritten."""
    return [second if take else first for first, second, take in zip(row, other, taken, strict=False)]


@given(IDS, IDS, st.lists(st.booleans(), min_size=6, max_size=6), st.booleans())
def test_torn_reads(first: str, second: str, taken: list[bool], from_nothing: bool) -> None:
    """A partly written exemplar is read as nothing or as a complete one, never with a third trace id."""
    before = [0.0] * exemplars.WIDTH if from_nothing else written(0.001, first)
    torn = mixed(before, written(0.002, second), taken) + [0.0] * (exemplars.WIDTH - 6)
    assert {each.trace_id for each in exemplars.read(torn) if each} <= {first, second}
    whole = written(0.003, first)
    exemplars.keep_latest(whole, torn)
    assert {each.trace_id for each in exemplars.read(whole) if each} <= {first, second}
    exemplars.keep_latest(torn, written(0.003, first))
    assert [each for each in exemplars.read(torn) if each]


@pytest.mark.usefixtures("unmeasured")
def test_cost(tmp_path: Path) -> None:
    """Recording a trace id costs at most five times as much as counting a request."""
    recorder = Recorder(tmp_path)
    count = 5000

    def measured(*trace_id: str) -> float:
        began = time.thread_time()
        for _ in range(count):
            recorder.record_request(*GET, 0.003, *trace_id)
        return (time.thread_time() - began) / count

    rounds = [(measured(), measured(FIRST)) for _ in range(7)]
    plain, traced = (min(each) for each in zip(*rounds, strict=True))
    cost = f"a request takes {plain * 1e6:.2f} µs to count, {traced * 1e6:.2f} µs with a trace id"
    print(cost)  # noqa: T201 - informational
    assert traced < 6 * plain, cost
    assert recorder.read()[(HTTP.name, ("GET", GET[1], "200"))]
