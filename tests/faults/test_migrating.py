"""Deployments that migrate from several places concurrently."""

import os
import subprocess
import sys

import pytest

from tests.conftest import SECRET

MIGRATE = [sys.executable, "-c", "from projkit.cli import main; main()", "migrate"]


@pytest.mark.parametrize("database", ["empty_sqlite_url", "empty_postgres_url"])
def test_several_migrate_at_once(database: str, request: pytest.FixtureRequest) -> None:
    """Four concurrent ``projkit migrate`` succeed, and create the schema once."""
    environment = {
        **os.environ, "PROJKIT_SECRET": SECRET, "PROJKIT_DATABASE_URL": str(request.getfixturevalue(database))
    }  # fmt: skip
    started = [
        subprocess.Popen(MIGRATE, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(4)
    ]
    for process in started:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
    checked = subprocess.run([*MIGRATE, "--check"], env=environment, check=False, capture_output=True)
    assert checked.returncode == 0, checked.stderr
