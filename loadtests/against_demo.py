"""Starts ``projkit serve --demo`` on a database of its own, runs the smoke suite against it, and ends it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLACK = os.environ.get("PROJKIT_LOAD_SLACK", "10")  # a second beside whatever else runs: does it work at all?
SUITE = Path(__file__).with_name("smoke.py")


def main() -> int:
    """The suite's exit code."""
    with tempfile.TemporaryDirectory() as directory:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
        environment = {**kept, "PROJKIT_DATABASE_URL": f"sqlite:///{directory}/load.db"}
        log = Path(directory) / "server.log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [sys.executable, "-c", "from projkit.cli import main; main()", "serve", "--demo", "--port", "0",
                 "--no-access-log"],
                stderr=output, env=environment, cwd=directory,
            )  # fmt: skip
        try:
            url, token = await_greeting(server, log)
            return subprocess.call(
                [sys.executable, "-m", "locust", "-f", str(SUITE), "--headless", "--host", url,
                 "--run-time", "10s", "--only-summary", *sys.argv[1:]],
                env={**kept, "PROJKIT_LOAD_TOKEN": token, "PROJKIT_LOAD_SLACK": SLACK},
            )  # fmt: skip
        finally:
            server.terminate()
            server.wait(20)


def await_greeting(server: "subprocess.Popen[bytes]", log: Path) -> tuple[str, str]:
    """The address and the token with which the server greets."""
    while server.poll() is None:
        found = re.search(r"Bearer (\S+)' (http://[^/\s]+)", log.read_text())
        if found:
            return found[2], found[1]
        time.sleep(0.05)
    raise SystemExit(log.read_text())


if __name__ == "__main__":
    sys.exit(main())
