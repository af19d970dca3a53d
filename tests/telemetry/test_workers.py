"""Several workers count together: no count is lost or doubled, however workers end."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from projkit import ProjKit
from projkit.db.statement import Statement
from projkit.db.tables import build_tables
from projkit.telemetry.endpoint_stats import stats_by_endpoint
from projkit.telemetry.families import (
    DISCONNECTS,
    EXCEPTIONS,
    EXEMPLARS,
    FAMILIES,
    FILE_BYTES,
    HTTP,
    OTHER,
    POOL,
    WEBSOCKETS,
)
from projkit.telemetry.history import History
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.store import Family, MemoryStore, MetricStore, Table, WorkerFile, decode, encode
from projkit.telemetry.worker_files import worker_files
from projkit.telemetry.workers import WorkerDirectory
from projkit.testing.internals import Internals
from tests.auth.asgi_client import ask
from tests.conftest import settings_for
from tests.telemetry.other_workers import Worker, another_worker, workers
from tests.telemetry.test_yielding import fill

WIDTHS = {family.name: family.width for family in FAMILIES}
GET = "GET"
ROUTE = "/api/v1/projects"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def count(worker: Worker, number: int) -> None:
    """Let a worker count requests and the connections of its pool, and read what all have counted."""
    worker.do(f"for _ in range({number}): recorder.record_request({GET!r}, {ROUTE!r}, 200, 0.003)")
    worker.do("recorder.record_pool_connections({'open': 7}); assert recorder.read()")


def requests(recorder: Recorder) -> int:
    """Return the number of requests over all workers."""
    return sum(stats.requests for stats in stats_by_endpoint(recorder.read()).values())


def pool(recorder: Recorder) -> float:
    """Return the open connections of all living workers."""
    return recorder.read().get((POOL.name, ("open",)), [0.0])[0]


def test_killed_workers(tmp_path: Path) -> None:
    """Counts add up over all workers; those of a killed one are neither lost nor doubled."""
    recorder = Recorder(tmp_path / "shared")
    recorder.record_request(GET, ROUTE, 200, 0.001)
    with workers(tmp_path / "shared", 2) as (first, second):
        count(first, 10)
        count(second, 100)
        assert requests(recorder) == 111
        assert pool(recorder) == 14
        assert {each.pid for each in recorder.workers()} == {
            os.getpid(),
            first.process.pid,
            second.process.pid,
        }
        first.kill()
        assert [requests(recorder) for _ in range(3)] == [111, 111, 111]
        assert pool(recorder) == 7, "an ended worker has no connections"
        count(second, 1000)
        assert requests(recorder) == 1111
    assert [requests(recorder) for _ in range(3)] == [1111, 1111, 1111]
    assert [each.pid for each in recorder.workers()] == [os.getpid()]


def test_a_crash_while_retiring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash while an ended worker is retired counts nothing twice."""
    shared = tmp_path / "shared"
    recorder = Recorder(shared)
    recorder.open()
    with another_worker(shared) as worker:
        count(worker, 10)
        worker.kill()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", _killed)
        with pytest.raises(KeyboardInterrupt):
            requests(recorder)
    assert list(shared.glob("worker-*-*")), "the file is still there"
    assert [requests(recorder), requests(recorder)] == [10, 10]


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_new_server(tmp_path: Path) -> None:
    """The first worker of a server empties the directory."""
    shared = tmp_path / "shared"
    with another_worker(shared) as worker:
        count(worker, 10)
    recorder = Recorder(shared)
    assert requests(recorder) == 0
    assert recorder.server_started_at >= recorder.started_at


def test_history_is_shared(tmp_path: Path) -> None:
    """One worker samples for all; another takes over when it ends, with the same history."""
    shared = tmp_path / "shared"
    recorder = Recorder(shared)
    history = History(recorder)
    history.record()
    recorder.record_request(GET, ROUTE, 500, 0.2)
    history.record()
    script = f"""
import pathlib
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.history import History
history = History(Recorder(pathlib.Path({str(shared)!r})))
history.record()
print(len(history.entries()), [entry.total().errors for entry in history.entries()])
"""
    before = len(history.entries())
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{before} {[entry.total().errors for entry in history.entries()]}\n"
    assert len(history.entries()) == before, "only one process samples"
    assert history.entries()[-1].total().errors == 1


def test_held_lock(tmp_path: Path) -> None:
    """Readers do not wait for the lock, even if an ended worker has to be retired."""
    shared = tmp_path / "shared"
    recorder = Recorder(shared)
    recorder.open()
    with another_worker(shared) as worker:
        count(worker, 10)
        worker.kill()
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [requests(recorder) for _ in range(3)] == [10, 10, 10]
        assert len(recorder.workers()) == 1
    assert [requests(recorder) for _ in range(3)] == [10, 10, 10]


@pytest.mark.anyio
async def test_removed_directory(tmp_path: Path, sqlite_url: str) -> None:
    """If the directory is removed, each worker still responds with its own counts."""
    shared = tmp_path / "shared"
    kit = ProjKit(settings_for(sqlite_url, metrics_directory=shared))
    async with kit.lifespan():
        await ask(kit, "GET", "/api/v1/health/live")
        shared.rename(tmp_path / "gone")  # at once, whatever a worker writes there in that moment
        for path in (
            "/api/v1/monitoring/metrics/performance",
            "/api/v1/monitoring/metrics/database",
            "/api/v1/monitoring/system/info",
            "/api/v1/health/detailed",
            "/metrics",
        ):
            assert (await ask(kit, "GET", path, address="127.0.0.1")).status == 200, path
    assert requests(Internals(kit).recorder) == 6


def test_two_kits_of_a_process(tmp_path: Path) -> None:
    """Two kits with the same directory are counted separately."""
    first, second = Recorder(tmp_path), Recorder(tmp_path)
    first.record_request(GET, ROUTE, 200, 0.001)
    second.record_request(GET, ROUTE, 200, 0.001)
    second.record_request(GET, ROUTE, 200, 0.001)
    assert (requests(first), requests(second)) == (1, 2)
    assert len(first.workers()) == len(second.workers()) == 1


def test_forked_workers(tmp_path: Path) -> None:
    """A process that is forked after counting has started is a separate worker."""
    script = f"""
import os, pathlib
from projkit.telemetry.recorder import Recorder
recorder = Recorder(pathlib.Path({str(tmp_path / "shared")!r}))
recorder.record_request("GET", "/", 200, 0.001)
child = os.fork()
recorder.record_request("GET", "/", 200, 0.001)
if child:
    os.waitpid(child, 0)
    print(sum(each.requests for each in recorder.endpoints().values()))
else:
    assert [each.pid for each in recorder.workers()] == [os.getppid(), os.getpid()]
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n", done.stderr


def test_rows_are_bounded() -> None:
    """The number of series is bounded; further label sets are counted as other."""
    recorder = Recorder()
    for number in range(3 * HTTP.limit):
        recorder.record_request("GET", f"/{number}", 200, 0.001, TRACE)
        recorder.record_request(f"M{number}", "/", 200, 0.001, TRACE)
        recorder.record_disconnect(f"M{number}", f"/{number}")
        recorder.record_websocket(f"/{number}", "accepted", 1.0)
        recorder.record_exception(f"/{number}", f"Error{number}")
        recorder.record_command(f"COMMAND{number}", 0.001, None)
        recorder.record_health_check(
            f"{number}", critical=False, healthy=True, seconds=0.1, valid_seconds=1.0
        )
    table = recorder.read()
    for family in FAMILIES:
        assert sum(key[0] == family.name for key in table) <= family.limit + 1
    assert requests(recorder) == 6 * HTTP.limit
    assert sum(cells[0] for key, cells in table.items() if key[0] == "websockets") == 3 * HTTP.limit
    assert any(OTHER in key[1] for key in table)
    assert len(encode(table)) < FILE_BYTES / 2


def test_room_for_all(tmp_path: Path) -> None:
    """A worker's file has room for all samples up to the limits, with the longest labels."""
    recorder = Recorder(tmp_path)
    for number in range(HTTP.limit):
        route = f"/{number:04}".ljust(200, "\N{GREEK SMALL LETTER OMEGA}")
        recorder.record_request("OPTIONS", route, 200, 0.001, TRACE)
        recorder.record_disconnect("OPTIONS", route)
        recorder.record_websocket(route, "accepted", 1.0)
        recorder.record_exception(route, "AnErrorWithAVeryLongName")
    table = recorder.read()
    for family in (HTTP, EXEMPLARS, DISCONNECTS, EXCEPTIONS, WEBSOCKETS):
        assert sum(key[0] == family.name for key in table) >= family.limit
    named = {key[0] for key in table}
    others = [family for family in FAMILIES if family.name not in named]
    assert len(encode(table)) + sum(each.limit * (8 * each.width + 1100) for each in others) < FILE_BYTES


def test_a_full_file(tmp_path: Path) -> None:
    """If a file is full, counting continues without it."""
    recorder = Recorder(tmp_path)
    store = recorder.open()
    big = Family("big", FILE_BYTES // 8)
    sample = store.sample(big, (), ())
    sample[0] += 1
    assert ("big", ()) not in recorder.read()


LABELS = st.tuples(st.text(max_size=30), st.text(max_size=30))
TABLES = st.dictionaries(
    st.tuples(st.sampled_from(["one", "two"]), LABELS),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=5),
    max_size=8,
)


@given(TABLES, st.integers(min_value=0, max_value=4000))
def test_truncated_files(table: Table, length: int) -> None:
    """A file is read as it was written; of a truncated one, every complete sample."""
    data = encode(table)
    assert decode(data) == table
    cut = decode(data[:length])
    assert cut.items() <= table.items()


@pytest.mark.parametrize("state", ["alive", "ended", "retired"])
@pytest.mark.parametrize(
    ("wider", "more_labels"),
    [(1, 0), (-1, 0), (0, 1), (0, -1)],
    ids=["wider", "narrower", "labels", "no labels"],
)
def test_another_version(tmp_path: Path, state: str, wider: int, more_labels: int) -> None:
    """While workers of another version are being replaced, samples with their layout are left out of every report."""
    theirs: Table = {}
    for family in FAMILIES:
        width, labels = family.width + wider, family.labels + more_labels
        if width and labels >= 0:
            theirs[family.name, ("9",) * labels] = [9.0] * width
    other = WorkerDirectory(tmp_path, {}, FILE_BYTES)
    other.join()[: len(encode(theirs))] = encode(theirs)
    recorder = Recorder(tmp_path)
    recorder.record_request(GET, ROUTE, 200, 0.5)
    if state != "alive":
        other.close()
    if state == "retired":  # by a worker of the other version, before one of this version has ended
        (file,) = (each.path for each in worker_files(tmp_path) if not each.is_alive)
        file.write_bytes(
            encode({(name, labels): [1.0, *[0.0] * (WIDTHS[name] - 1)] for name, labels in theirs})
        )
        (tmp_path / "retired").write_bytes(b"[]\n" + encode(theirs))
    for _ in range(2):
        table = recorder.read()
        assert [key for key, values in table.items() if 9.0 in values] == []
        assert requests(recorder) == (2 if state == "retired" and wider else 1)
        assert recorder.event_loops() == []


def test_every_family_has_the_layout_that_it_declares() -> None:
    """Whatever a worker counts, the others read."""
    recorder = Recorder()
    fill(recorder)
    statement = Statement(sa.select(build_tables("").projects.c.id))
    recorder.record_statement(statement.for_sqlite(), 100.0, ValueError())
    recorder.record_transaction(committed=True)
    recorder.record_rejection("queue_full")
    mine = recorder.open().merged([])
    assert {name for name, _ in mine} == {family.name for family in FAMILIES}
    others = [WorkerFile(encode(mine), is_alive=True)]
    assert MetricStore(FAMILIES, MemoryStore()).merged(others).keys() == mine.keys()
