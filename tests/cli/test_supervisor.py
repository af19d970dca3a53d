"""The rules by which the parent of the workers replaces, stops and kills them, without real processes."""

import errno
import logging
import signal
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from projkit.cli import supervisor as module
from projkit.cli.supervisor import Supervisor

STOP_SECONDS = 20.0


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


class FakeWorker:
    """A worker process that does what the test says."""

    pids = count(100)

    def __init__(self, clock: Clock) -> None:
        self.pid = next(self.pids)
        self.clock = clock
        self.exit_code: int | None = None
        self.started_at = clock.now
        self.serving_since: float | None = None
        self.is_unresponsive = self.closed = False
        self.stopping_since: float | None = None
        self.silent_since: float | None = None
        self.waitables: list[Any] = []
        self.received: list[Any] = []
        self.stops = 0

    def send(self, message: Any) -> None:
        """Receive what the parent sends."""
        self.received.append(dict(message))

    def ping(self, period_seconds: float) -> None:
        """Be asked to respond."""

    def receive(self) -> None:
        """Send nothing."""

    def stop(self) -> None:
        """Be asked to stop."""
        self.stopping_since = self.clock.now if self.stopping_since is None else self.stopping_since
        self.stops += 1

    def kill(self) -> None:
        """Be killed."""
        self.exit_code = -signal.SIGKILL

    def close(self) -> None:
        """Be released."""
        self.closed = True

    @property
    def is_planned(self) -> bool:
        """Whether it was asked to stop."""
        return self.stopping_since is not None

    def serve(self) -> None:
        """Begin to serve."""
        self.serving_since = self.clock.now


class Scene:
    """A supervisor, its workers, and the time."""

    def __init__(self, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.started: list[FakeWorker] = []
        self.overslept = 0.0
        self.start_error: OSError | None = None
        monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(module, "wait", self.wait)
        self.supervisor = Supervisor(self.start, workers=workers, stop_seconds=STOP_SECONDS)  # type: ignore[arg-type]

    def start(self) -> FakeWorker:
        """Start a worker, if the system lets it."""
        if self.start_error is not None:
            raise self.start_error
        self.started.append(FakeWorker(self.clock))
        return self.started[-1]

    def wait(self, _: object, timeout: float) -> list[object]:
        """Pass the time that the supervisor sleeps."""
        self.clock.now += timeout + self.overslept
        return []

    def run(self, seconds: float) -> None:
        """Let the supervisor work for a while."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.supervisor.step()

    def send(self, number: int) -> None:
        """Send the supervisor a signal."""
        self.supervisor.handle_signal(number)
        self.supervisor.step()

    @property
    def alive(self) -> list[FakeWorker]:
        """The workers that have not ended."""
        return [each for each in self.started if each.exit_code is None]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Two workers that serve."""
    scene = Scene(2, monkeypatch)
    scene.supervisor.step()
    for worker in scene.started:
        worker.serve()
    scene.run(30)
    return scene


def test_crash_loop(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that fails at every start is tried again with increasing delays, until one serves for long enough."""
    scene.started[0].exit_code = -signal.SIGKILL
    starts = []
    for _ in range(7):
        before = len(scene.started)
        died = scene.clock.now
        while len(scene.started) == before:
            scene.supervisor.step()
        starts.append(round(scene.started[-1].started_at - died))
        scene.started[-1].exit_code = 3
    assert starts == [1, 1, 2, 2, 3, 5, 9], "0.25, 0.5, 1, 2, 4 and 8 s after a step that takes a second"
    assert (
        "the failure number 7 in a row; the next attempt is in 8 s, and 1 of 2 workers serve" in caplog.text
    )
    scene.run(60)
    scene.started[-1].serve()
    scene.run(10)
    scene.started[-1].exit_code = 1
    scene.run(2)
    assert len(scene.alive) == 2, "the successor of a worker that served is started at once"
    assert scene.alive[0].received[-1] == {
        **dict.fromkeys(scene.supervisor.exits, 0),
        "SIGKILL": 1,
        "start_failed": 7,
        "exit_error": 1,
    }


def test_no_worker_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure before any worker has served stops the server; a kill does not."""
    scene = Scene(2, monkeypatch)
    scene.supervisor.step()
    scene.started[0].exit_code = -signal.SIGKILL
    scene.run(2)
    assert [each.stops for each in scene.alive] == [0, 0]
    scene.alive[0].exit_code = 1
    scene.supervisor.step()
    assert [each.stops for each in scene.alive] == [1]
    for worker in scene.alive:
        worker.exit_code = -signal.SIGTERM
    assert scene.supervisor.run() is False


def test_rolling_replacement(scene: Scene) -> None:
    """Each worker is asked to stop only when its successor serves, one after the other; no end counts as a failure."""
    old = list(scene.started)
    scene.send(signal.SIGHUP)
    for number, worker in enumerate(old):
        scene.run(3)
        assert (worker.stops, len(scene.alive)) == (0, 3)
        scene.started[-1].serve()
        scene.run(3)
        assert (worker.stops, len(scene.alive)) == (1, 3), "it drains"
        worker.exit_code = -signal.SIGTERM
        scene.run(2)
        assert len(scene.started) == min(4, 4 + number)
    assert scene.alive == scene.started[2:]
    assert scene.supervisor.exits["planned"] == 2
    assert sum(scene.supervisor.exits.values()) == 2


@pytest.mark.parametrize("how", ["it fails", "it hangs"])
def test_failed_replacement(scene: Scene, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """If a successor does not serve, the workers stay in service, and the log has the fix."""
    scene.send(signal.SIGHUP)
    scene.run(2)
    if how == "it fails":
        scene.started[-1].exit_code = 3
    scene.run(40)
    assert scene.alive == scene.started[:2]
    assert [each.stops for each in scene.alive] == [0, 0]
    assert (
        "the 2 workers that were still to be replaced stay in service; correct the configuration"
        in caplog.text
    )
    assert scene.supervisor.exits["start_failed" if how == "it fails" else "unresponsive"] == 1
    scene.send(signal.SIGHUP)
    scene.run(2)
    assert len(scene.alive) == 3, "the next signal tries again"


def test_second_replacement(scene: Scene) -> None:
    """A second SIGHUP begins again, so that all workers are newer than it."""
    scene.send(signal.SIGHUP)
    scene.run(2)
    first = scene.started[-1]
    scene.send(signal.SIGHUP)
    assert first.stops == 1
    first.exit_code = -signal.SIGTERM
    scene.run(2)
    assert len(scene.alive) == 3


def test_number_of_workers(scene: Scene) -> None:
    """SIGTTIN adds a worker, SIGTTOU removes one, even while it was to be replaced, but never the last."""
    scene.send(signal.SIGTTIN)
    scene.run(2)
    assert len(scene.alive) == 3
    scene.send(signal.SIGHUP)
    for _ in range(4):
        scene.send(signal.SIGTTOU)
    assert [each.stops for each in scene.alive][:3] == [0, 1, 1]
    for worker in scene.alive:
        if worker.stops:
            worker.exit_code = 0
    scene.run(2)
    scene.started[-1].serve()
    scene.run(2)
    scene.started[0].exit_code = 0
    scene.run(5)
    assert len(scene.alive) == 1, "the remaining one was replaced"


def test_unresponsive(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that does not respond for half a minute is killed and replaced; after a suspension, none is."""
    worker, other = scene.started
    worker.silent_since = scene.clock.now
    scene.run(29)
    assert worker in scene.alive
    scene.run(3)
    assert worker not in scene.alive
    scene.run(2)
    assert f"worker {worker.pid} did not respond and was killed after it had served" in caplog.text
    assert (scene.supervisor.exits["unresponsive"], len(scene.alive)) == (1, 2)
    other.silent_since = scene.clock.now
    scene.overslept = 3600
    scene.supervisor.step()
    scene.overslept = 0
    scene.run(60)
    assert other in scene.alive


def test_no_process_can_be_started(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """While the system has no process left for a replacement, the others serve, and it is tried again."""
    scene.start_error = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    scene.started[0].exit_code = -signal.SIGKILL
    scene.run(10)
    why = "(Resource temporarily unavailable), the failure number 4 in a row"
    assert f"no process could be started for a worker {why}" in caplog.text
    scene.send(signal.SIGHUP)
    assert "because no process could be started (Resource temporarily unavailable)" in caplog.text
    assert [each.stops for each in scene.alive] == [0]
    scene.start_error = None
    scene.run(30)
    assert len(scene.alive) == 2


def test_no_process_can_be_started_at_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that cannot start a single process ends."""
    scene = Scene(2, monkeypatch)
    scene.start_error = OSError(errno.ENOMEM, "Cannot allocate memory")
    assert scene.supervisor.run() is False
    expected = (
        "no process could be started for a worker (Cannot allocate memory) before any worker served; stopping"
    )
    assert caplog.text.count(expected) == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTTOU])
def test_a_worker_does_not_leave(scene: Scene, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """A replaced or removed worker that does not stop in time is killed, so that the others are replaced as well."""
    scene.send(number)
    scene.run(2)
    scene.started[-1].serve()
    scene.run(2)
    (leaving,) = [each for each in scene.alive if each.stops]
    scene.run(STOP_SECONDS + 3)
    assert leaving not in scene.alive
    assert f"worker {leaving.pid} did not stop within 20 s; killing it" in caplog.text
    assert scene.supervisor.exits["unresponsive"] == 1
    if number == signal.SIGHUP:
        scene.started[-1].serve()
        scene.run(5)
        assert [each.stops for each in scene.started[:2]] == [1, 1], "the next one is replaced"


def test_signals_of_a_whole_group(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that the workers have received as well, and followed at once, is no failure of a worker."""

    def wait(*_: object) -> list[object]:
        for worker in scene.started:
            worker.exit_code = -signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)
        return []

    monkeypatch.setattr(module, "wait", wait)
    assert scene.supervisor.run() is True
    assert scene.supervisor.exits["planned"] == 2
    assert "WARNING" not in caplog.text


def test_stop(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """SIGTERM stops all, a second one is passed on, nothing is replaced any more, and a worker that hangs is killed."""
    scene.send(signal.SIGTERM)
    scene.send(signal.SIGHUP)
    scene.send(signal.SIGINT)
    assert [each.stops for each in scene.alive] == [2, 2]
    scene.started[0].exit_code = 0
    assert scene.supervisor.run() is True
    assert f"worker {scene.started[1].pid} did not stop within 20 s; killing it" in caplog.text
    assert len(scene.started) == 2
    assert all(each.closed for each in scene.started)


def test_error_of_the_parent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error of the parent leaves no worker behind."""
    monkeypatch.setattr(module, "wait", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scene.supervisor.run()
    assert scene.alive == []


@pytest.fixture(autouse=True)
def signal_handlers(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Restore the signal handlers."""
    caplog.set_level(logging.INFO)
    numbers = [*module.HANDLED_SIGNALS, *module.IGNORED_SIGNALS]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
