"""The directory that a server creates for its workers, and what it removes of others."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from projkit.cli.metrics_directory import PREFIX, MetricsDirectory, remove_abandoned
from projkit.settings import Settings
from projkit.telemetry.families import FILE_BYTES
from projkit.telemetry.recorder import Recorder
from tests.conftest import settings_for


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory."""
    base = tmp_path / "run"
    base.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    return base


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with an embedded database in a directory of its own."""
    (tmp_path / "data").mkdir()
    return settings_for(f"sqlite:///{tmp_path}/data/projkit.db")


def abandoned(base: Path, name: str = "a") -> Path:
    """Create a directory as a killed server leaves it."""
    path = base / f"{PREFIX}{name}"
    (path / "kit-1").mkdir(parents=True)
    (path / "server").write_bytes(b"projkit serve\n")
    for directory in (path, path / "kit-1"):
        (directory / "worker-1-1-ab").write_bytes(bytes(100))
    return path


@pytest.mark.parametrize("variable", ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"])
def test_location(
    base: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The directory is in the runtime directory, for this user only, and is removed at the end."""
    first = tmp_path / variable
    first.mkdir()
    monkeypatch.setenv(variable, f"{first}:/nowhere" if variable == "RUNTIME_DIRECTORY" else str(first))
    with MetricsDirectory(settings, 2) as directory:
        assert directory.path.parent == first
        assert directory.path.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in directory.path.iterdir()] == ["server"]
        Recorder(directory.path).open()
    assert list(first.iterdir()) == []


@pytest.mark.parametrize("why", ["missing", "relative", "of another user", "full", "not set"])
def test_unusable_runtime_directory(
    base: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Without a runtime directory of this user with enough space, it is next to the embedded database."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345 if why == "of another user" else os.getuid())
    if why == "missing":
        base.rmdir()
    elif why == "relative":
        monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    elif why == "not set":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    elif why == "full":
        real = os.statvfs

        def full(path: Path) -> object:
            status = real(path)
            return os.statvfs_result((*status[:4], 0 if path == base else status[4], *status[5:]))

        monkeypatch.setattr(os, "statvfs", full)
    with MetricsDirectory(settings, 2) as directory:
        assert directory.path.parent in {settings.sqlite_path.parent, Path(f"/run/user/{os.getuid()}")}


def test_without_an_embedded_database(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise it is in the directory for temporary files; if nothing can be created at all, the server starts."""
    base.rmdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    settings = settings_for("postgresql://nobody@127.0.0.1/none")
    with MetricsDirectory(settings, 1) as directory:
        assert directory.path.parent in {tmp_path, Path(f"/run/user/{os.getuid()}")}
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: os.mkdir("/proc/none"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc/none")
    with MetricsDirectory(settings, 1) as directory:
        assert not directory.path.exists()
        directory.ensure()
        assert not directory.path.exists()


@pytest.mark.parametrize("removed", ["the directory", "its marker"])
def test_removed(base: Path, settings: Settings, removed: str) -> None:
    """A directory that another program has removed is created again, and belongs to this server."""
    with MetricsDirectory(settings, 2) as directory:
        (directory.path / "server").unlink()
        if removed == "the directory":
            directory.path.rmdir()
        directory.ensure()
        directory.ensure()
        assert [path.name for path in directory.path.iterdir()] == ["server"]
        assert remove_abandoned(base) == []
    assert list(base.iterdir()) == []


def test_abandoned(base: Path, settings: Settings) -> None:
    """A start removes what killed servers have left behind."""
    abandoned(base, "a")
    abandoned(base, "b")
    with MetricsDirectory(settings, 2) as directory:
        assert list(base.iterdir()) == [directory.path]


@pytest.mark.parametrize(
    "whose",
    [
        "a living server's",
        "a living worker's",
        "a second kit's worker's",
        "no server's",
        "another program's",
        "a link",
    ],
)
def test_directories_of_others(base: Path, tmp_path: Path, whose: str) -> None:
    """A directory that may be in use, or that no server has created, stays."""
    path = abandoned(base)
    locked = {
        "a living server's": path / "server",
        "a living worker's": path / "worker-1-1-ab",
        "a second kit's worker's": path / "kit-1" / "worker-1-1-ab",
    }.get(whose, tmp_path / "other")
    if whose == "no server's":
        (path / "server").unlink()
    elif whose == "another program's":
        (path / "server").write_text("nginx")
    elif whose == "a link":
        path = path.rename(tmp_path / "elsewhere")
        (base / f"{PREFIX}link").symlink_to(path)
    with locked.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_abandoned(base) == []
    assert (path / "worker-1-1-ab").exists()


def test_directories_of_other_users(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of another user stays, and so does one whose marker belongs to another user."""
    path = abandoned(base)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert remove_abandoned(base) == []
    assert path.exists()
    monkeypatch.undo()
    (path / "server").unlink()
    os.mkfifo(path / "server")
    assert remove_abandoned(base) == []
    assert remove_abandoned(base / "none") == []


def test_counts_of_a_server_whose_workers_all_die(base: Path, settings: Settings) -> None:
    """While its server lives, a directory is not emptied, even if no worker is alive."""
    with MetricsDirectory(settings, 2) as directory:
        (directory.path / "worker-1-1-ab").write_bytes(bytes(FILE_BYTES))
        Recorder(directory.path).open()
        assert (directory.path / "worker-1-1-ab").exists()
