"""Hypercorn on trio does not start with the kit, and says once why."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SECRET
from tests.hosts.conftest import ROOT, free_port

HOST = """
from starlette.applications import Starlette
from projkit import ProjKit

kit = ProjKit()
wrapped = kit.wrap(Starlette(), prefix="/kit")
mounting = Starlette(lifespan=kit.lifespan)
mounting.mount("/kit", kit)
"""


@pytest.mark.parametrize("app", ["kit", "wrapped", "mounting"])
def test_hypercorn_on_trio(tmp_path: Path, app: str) -> None:
    """The server ends by itself, and one line names the cause and the option to change."""
    (tmp_path / "trio_host.py").write_text(HOST)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hypercorn",
            f"trio_host:{app}",
            "-k",
            "trio",
            "--bind",
            f"127.0.0.1:{free_port()}",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PROJKIT_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = done.stdout + done.stderr
    (line,) = [each for each in output.splitlines() if each.startswith("projkit runs on asyncio only")]
    assert "Start hypercorn with -k asyncio" in line
