"""Lifespans of wrapped hosts on real servers: however the host's ends, the kit stops."""

from pathlib import Path

import pytest

from tests.hosts.conftest import SERVERS, started

LIVE = "/kit/api/v1/health/live"


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("ends", ["cancelled", "failed", "normally"])
def test_the_kit_stops(server: str, ends: str, tmp_path: Path) -> None:
    """The kit stops after a host that awaits a task it has cancelled, or fails; the error reaches the log."""
    app = "tests.hosts.lifespan_app:app"
    with started(server, app, tmp_path, LIVE, {"ENDS": ends}) as served:
        with served.client() as client:
            assert client.get(LIVE).status_code == 200
        served.stop()
        assert served.log.count("kit stopped") == 1, served.log
        expected = {"cancelled": "CancelledError", "failed": "the host cannot stop", "normally": ""}[ends]
        assert expected in served.log
        assert ("Error" in served.log) == bool(expected), served.log
    assert not list(tmp_path.glob("*-wal"))
