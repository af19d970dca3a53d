"""Starts ``projkit serve --demo`` on a temporary database, runs the smoke suite against it, and stops it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLACK = os.environ.get("PROJKIT_LOAD_SLACK", "10")  # a functional check that may run next to other work
SUITE = Path(__file__).with_name("smoke.py")


def main() -> int:
    """Return the suite's exit code."""
    with tempfile.TemporaryDirectory() as directory:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
        environment = {**inherited, "PROJKIT_DATABASE_URL": f"sqlite:///{directory}/load.db"}
        log = Path(directory) / "server.log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from projkit.cli import main; main()",
                    "serve",
                    "--demo",
                    "--port",
                    "0",
                    "--no-access-log",
                ],
                stderr=output,
                env=environment,
                cwd=directory,
            )
        try:
            url, token = wait_for_banner(server, log)
            return subprocess.call(
                [
                    sys.executable,
                    "-m",
                    "locust",
                    "-f",
                    str(SUITE),
                    "--headless",
                    "--host",
                    url,
                    "--run-time",
                    "10s",
                    "--only-summary",
                    *sys.argv[1:],
                ],
                env={**inherited, "PROJKIT_LOAD_TOKEN": token, "PROJKIT_LOAD_SLACK": SLACK},
            )
        finally:
            server.terminate()
            server.wait(20)


def wait_for_banner(server: "subprocess.Popen[bytes]", log: Path) -> tuple[str, str]:
    """Return the base URL and the token that the server prints."""
    while server.poll() is None:
        match = re.search(r"Bearer (\S+)' (http://[^/\s]+)", log.read_text())
        if match:
            return match[2], match[1]
        time.sleep(0.05)
    raise SystemExit(log.read_text())


if __name__ == "__main__":
    sys.exit(main())
