"""Whatever happens to the metrics directory, the service continues, and shares its metrics again when it can."""

import asyncio
import errno
import fcntl
import logging
import os
import time
from pathlib import Path

import pytest

from projkit import ProjKit
from projkit.errors import ConfigurationError
from projkit.telemetry import process_store
from projkit.telemetry.families import FILE_BYTES
from projkit.telemetry.history import History
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.store import decode, encode
from projkit.telemetry.worker_files import allocate, require_usable
from projkit.testing.internals import Internals
from tests.auth.asgi_client import ask
from tests.conftest import settings_for
from tests.telemetry.other_workers import another_worker
from tests.telemetry.test_state import MetricValues, metric_values
from tests.telemetry.test_workers import GET, ROUTE, requests

pytestmark = pytest.mark.anyio
DEGRADED = "projkit_metrics_store_degraded"


def no_room(*_: object) -> None:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def repair(recorder: Recorder) -> None:
    """Do what the sampler does every ten seconds."""
    recorder.repair(lambda function: function())


def count(recorder: Recorder, number: int = 1) -> None:
    """Count requests."""
    for _ in range(number):
        recorder.record_request(GET, ROUTE, 200, 0.001)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The path of a metrics directory."""
    return tmp_path / "shared"


@pytest.mark.parametrize("kind", ["a file", "not allowed", "full"])
async def test_an_unusable_directory(
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    sqlite_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A kit whose METRICS_DIRECTORY cannot be used serves; it warns once, sets a gauge, and counts alone."""
    path = tmp_path / "shared"
    if kind == "full":
        monkeypatch.setattr(os, "posix_fallocate", no_room)
    elif kind == "a file":
        path.write_text("")
    else:
        path = Path("/proc/projkit")
    kit = ProjKit(settings_for(sqlite_url, metrics_directory=path))
    async with kit.lifespan():
        for _ in range(3):
            assert (await ask(kit, "GET", "/api/v1/health/live")).status == 200
        recorder = Internals(kit).recorder
        assert MetricValues(kit.registry)(DEGRADED) == 1
        repair(recorder)
        assert requests(recorder) == 3
        assert [each.pid for each in recorder.workers()] == [os.getpid()]
        answer = await ask(kit, "GET", "/api/v1/monitoring/metrics/performance", address="127.0.0.1")
        assert answer.json()["last_1_minute"]["requests"] == 3
    assert caplog.text.count(f"metrics directory {path} cannot be used") == 1
    assert "make the directory writable for every worker, with 7 MB of free space for each" in caplog.text


def test_the_first_start(tmp_path: Path) -> None:
    """What the first start checks leaves nothing behind; a directory that cannot be used is named with the setting."""
    require_usable(tmp_path / "new" / "shared", FILE_BYTES)
    assert list((tmp_path / "new" / "shared").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigurationError, match=r"PROJKIT_METRICS_DIRECTORY: .*file cannot be used \(.*\); set it"
    ):
        require_usable(tmp_path / "file", FILE_BYTES)


def test_a_disk_that_was_full(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that counted alone sees the others meanwhile, and shares what it has counted once there is room."""
    with another_worker(shared) as worker:
        worker.do("recorder.record_request('GET', '/api/v1/projects', 200, 0.001)")
        recorder = Recorder(shared)
        value = metric_values(recorder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", no_room)
            count(recorder, 10)
            recorder.begin_request()
            repair(recorder)
        assert (requests(recorder), value(DEGRADED), value("projkit_workers")) == (11, 1, 2)
        assert len(list(shared.glob("worker-*"))) == 1
        repair(recorder)
        count(recorder, 100)
        recorder.end_request()
        assert (requests(recorder), value(DEGRADED), value("projkit_workers")) == (111, 0, 2)
        assert value("projkit_http_server_active_requests") == 0
        worker.do("assert sum(each.requests for each in recorder.endpoints().values()) == 111")


@pytest.mark.parametrize("lost", ["its file", "the directory"])
def test_removed_files(shared: Path, lost: str, caplog: pytest.LogCaptureFixture) -> None:
    """A worker whose file was removed continues in a new one, with all its counts; none is counted twice."""
    caplog.set_level(logging.INFO)
    recorder = Recorder(shared)
    count(recorder, 10)
    began = recorder.server_started_at
    for path in shared.iterdir():
        if lost == "the directory" or path.name.startswith("worker-"):
            path.unlink()
    if lost == "the directory":
        shared.rmdir()
    count(recorder)
    for _ in range(3):
        repair(recorder)
    count(recorder, 100)
    assert recorder.server_started_at == pytest.approx(began, abs=1)
    assert caplog.text.count(f"the metrics file of this process was removed from {shared}") == 1
    with another_worker(shared) as worker:
        worker.do("assert sum(each.requests for each in recorder.endpoints().values()) == 111")
    assert requests(recorder) == 111


@pytest.mark.parametrize("content", [None, "", "yesterday"])
def test_removed_start(shared: Path, content: str | None) -> None:
    """A worker joins a directory whose file `started` was removed or overwritten; counting began with the oldest."""
    recorder = Recorder(shared)
    recorder.open()
    (shared / "started").unlink()
    if content is not None:
        (shared / "started").write_text(content)
    with another_worker(shared) as worker:
        worker.do(f"assert abs(recorder.server_started_at - {recorder.workers()[0].started_at}) < 0.01")
        assert float((shared / "started").read_text()) == pytest.approx(
            recorder.workers()[0].started_at, abs=0.01
        )


GARBAGE = (
    b"",
    b"\0" * 20,
    b"\xff" * 4000,
    b"[]",
    b'["x"]\n' + b"\xff" * 99,
    encode({("http", ("a",)): [1.0]})[:-3],
)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_damaged_files(shared: Path, garbage: bytes) -> None:
    """Files of other programs, of other versions, or with any content, are left out; the others are counted."""
    recorder = Recorder(shared)
    count(recorder)
    history = History(recorder)
    history.record()
    entries = history.entries()
    for name in (
        "worker-1-1-ab",
        "retired",
        f"{next(shared.glob('history-*')).name}0",
        "history-1",
        "worker-x",
    ):
        (shared / name).write_bytes(garbage)
    (shared / "worker-2-2-ab").mkdir()
    os.mkfifo(shared / "worker-3-3-ab")
    os.mkfifo(shared / f"{next(shared.glob('history-*')).name.rpartition('-')[0]}-x")
    for retire in (False, True):
        assert requests(recorder) == 1
        assert recorder.other_files(retire=retire)
    assert [each.pid for each in recorder.workers()] == [os.getpid()]
    assert history.entries()[: len(entries)] == entries
    assert History(recorder).entries()[-1].total().requests <= 1
    with another_worker(shared) as worker:
        worker.do("assert sum(each.requests for each in recorder.endpoints().values()) == 1")


def test_keys_that_are_no_keys() -> None:
    """A sample whose key is not a list of texts ends the reading of its file."""
    valid = encode({("a", ("b",)): [1.0]})
    damaged = encode({("c", ("d",)): [2.0]}).replace(b'"d"', b"[1]")
    joined = valid + damaged[8:]
    data = len(joined).to_bytes(8, "little") + joined[8:]
    assert decode(data) == {("a", ("b",)): [1.0]}


def test_an_unreadable_directory(
    shared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that can no longer read the directory reports itself, with the gauge; and all again when it can."""
    recorder = Recorder(shared)
    value = metric_values(recorder)
    with another_worker(shared) as worker:
        worker.do("recorder.record_request('GET', '/api/v1/projects', 200, 0.001)")
        count(recorder)
        real = os.listdir

        def denied(path: Path) -> list[str]:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(os, "listdir", denied)
        assert [requests(recorder) for _ in range(3)] == [1, 1, 1]
        repair(recorder)
        assert (value(DEGRADED), value("projkit_workers")) == (1, 1)
        assert caplog.text.count("metrics of other workers are unavailable") == 1
        monkeypatch.setattr(os, "listdir", real)
        assert requests(recorder) == 2
        repair(recorder)
        assert (value(DEGRADED), value("projkit_workers")) == (0, 2)


def test_no_room_for_ended_workers(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room to merge the counts of an ended worker, they are counted nonetheless."""
    recorder = Recorder(shared)
    recorder.open()
    with another_worker(shared) as worker:
        worker.do("recorder.record_request('GET', '/api/v1/projects', 200, 0.001)")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_room)
        assert [requests(recorder) for _ in range(2)] == [1, 1]
        with pytest.raises(OSError, match="No space left"):
            History(recorder).record()
        assert not list(shared.glob("new-*"))
    assert [requests(recorder) for _ in range(2)] == [1, 1]


async def test_a_warning_once(
    shared: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the history cannot be written, the log says so once."""
    monkeypatch.setattr("projkit.telemetry.history.PERIOD_SECONDS", 0.01)
    kit = ProjKit(settings_for(sqlite_url, metrics_directory=shared))
    calls = []

    def failing(_: Path, data: bytes) -> None:
        calls.append(data)
        no_room()

    async with kit.lifespan():
        monkeypatch.setattr(Path, "write_bytes", failing)
        while len(calls) < 3:
            await asyncio.sleep(0.01)
    assert caplog.text.count("cannot write history") == 1


def test_a_held_lock(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that cannot get the lock in time counts alone, and joins later."""
    monkeypatch.setattr("projkit.telemetry.workers._LOCK_TIMEOUT_SECONDS", 0.0)
    shared.mkdir()
    recorder = Recorder(shared)
    value = metric_values(recorder)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        count(recorder)
        assert value(DEGRADED) == 1
    repair(recorder)
    assert (value(DEGRADED), requests(recorder)) == (0, 1)


def test_one_sampler_in_a_new_directory(shared: Path) -> None:
    """After the sampler's lock was removed, one worker samples, not two."""
    recorder = Recorder(shared)
    history = History(recorder)
    history.record()
    (shared / "sampler").unlink()
    with another_worker(shared) as worker:
        worker.do(
            "from projkit.telemetry.history import History; history = History(recorder); history.record()"
        )
        before = len(history.entries())
        history.record()
        assert len(history.entries()) == before, "the other one holds the lock"
    history.record()
    assert len(history.entries()) == before + 1


def test_simultaneous_repairs(shared: Path) -> None:
    """Two repairs at the same time create one file, and the second one finds nothing to do."""
    recorder = Recorder(shared)
    count(recorder)
    next(shared.glob("worker-*")).unlink()
    waiting: list[object] = []
    recorder.repair(waiting.append)
    repair(recorder)
    assert len(list(shared.glob("worker-*"))) == 1
    for function in waiting:
        assert callable(function)
        function()
    assert requests(recorder) == 1


def test_cleaners_find_no_old_files(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files of the directory are touched regularly, so that no cleaner of temporary files removes them."""
    recorder = Recorder(shared)
    count(recorder)
    for path in shared.iterdir():
        os.utime(path, (1, 1))
    repair(recorder)
    assert {path.stat().st_mtime for path in shared.iterdir()} == {1}
    monkeypatch.setattr(process_store, "_TOUCH_SECONDS", 0.0)
    repair(recorder)
    assert min(path.stat().st_mtime for path in shared.iterdir()) > time.time() - 60


@pytest.mark.parametrize("missing", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_allocation_without_support(
    tmp_path: Path, missing: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system cannot allocate space, zeros are written, so that no page is missing later."""

    def unsupported(*_: object) -> None:
        assert missing is not None
        raise OSError(missing, "unsupported")

    if missing is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with (tmp_path / "file").open("w+b") as file:
        allocate(file.fileno(), 100_001)
    assert (tmp_path / "file").read_bytes() == bytes(100_001)
    assert (tmp_path / "file").stat().st_blocks * 512 >= 100_001
