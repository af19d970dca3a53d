"""Starts ``projkit serve --demo`` on a temporary database, runs the smoke suite against it, and stops it.

It also checks what the suites promise: a duration without the preparation, an error for a token that would expire, and
a cleanup after a run that was killed.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

SLACK = os.environ.get("PROJKIT_LOAD_SLACK", "10")  # a functional check that may run next to other work
PROJKIT = [sys.executable, "-c", "from projkit.cli import main; main()"]
SUITE = Path(__file__).with_name("smoke.py")


def main() -> int:
    """Return the suite's exit code, or 1 if the suite's own promises are broken."""
    with tempfile.TemporaryDirectory() as directory:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
        environment = {**inherited, "PROJKIT_DATABASE_URL": f"sqlite:///{directory}/load.db"}
        log = Path(directory) / "server.log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [*PROJKIT, "serve", "--demo", "--port", "0", "--no-access-log"],
                stderr=output,
                env=environment,
                cwd=directory,
            )
        try:
            url, token = wait_for_banner(server, log)
            loaded = {**inherited, "PROJKIT_LOAD_TOKEN": token, "PROJKIT_LOAD_SLACK": SLACK}
            report = Path(directory) / "report.json"
            code = subprocess.call([*smoke(url, "10s"), "--report", str(report), *sys.argv[1:]], env=loaded)
            if code == 0:
                check_duration(report)
                check_expiring_token(url, loaded, directory, environment)
                check_cleanup(url, loaded)
            return code
        finally:
            server.terminate()
            server.wait(20)


def smoke(url: str, duration: str) -> list[str]:
    """Return the command that runs the smoke suite."""
    locust = [sys.executable, "-m", "locust", "-f", str(SUITE), "--headless", "--only-summary"]
    return [*locust, "--host", url, "--run-time", duration]


def check_duration(report: Path) -> None:
    """Check that the time of the schedule does not include that of the preparation."""
    seconds = json.loads(report.read_text())["seconds"]
    expect(seconds >= 9.9, f"the schedule took {seconds} s instead of 10 s")


def check_expiring_token(
    url: str, loaded: Mapping[str, str], directory: str, environment: Mapping[str, str]
) -> None:
    """Check that a token which expires during the run is reported before the first request of the schedule."""
    minted = subprocess.run(
        [*PROJKIT, "token", "--subject", "load", "--ttl", "30s"],
        env=environment, cwd=directory, capture_output=True, text=True, check=True,
    )  # fmt: skip
    done = subprocess.run(
        smoke(url, "60s"), env={**loaded, "PROJKIT_LOAD_TOKEN": minted.stdout.strip()},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    expect(done.returncode == 1 and "--ttl 3m" in done.stderr + done.stdout, done.stderr + done.stdout)


def check_cleanup(url: str, loaded: Mapping[str, str]) -> None:
    """Check that clean.py finds and deletes what a killed run has left, and nothing the second time."""
    killed = subprocess.Popen(smoke(url, "60s"), env=dict(loaded), stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    tag = ""
    for line in killed.stdout:
        tag = tag or "".join(re.findall(r"has the tag (load-[0-9a-f]{8}-[0-9]+)", line))
        if "created" in line:
            break
    killed.kill()
    killed.communicate()
    said = []
    for more in (["--dry-run"], [], []):
        clean = [sys.executable, str(SUITE.with_name("clean.py")), tag, "--host", url, *more]
        done = subprocess.run(
            clean, env=dict(loaded), capture_output=True, text=True, timeout=60, check=False
        )
        said.append(done.stdout + done.stderr)
        expect(done.returncode == 0, said[-1])
    left = re.match(r"([1-9][0-9]*) projects have", said[0])
    expect(left is not None, said[0])
    assert left is not None
    expect(f"{left[1]} of {left[1]} projects deleted" in said[1], said[1])
    expect(said[2].startswith("0 projects have"), said[2])


def expect(condition: bool, message: str) -> None:
    """Exit with a message unless the condition is true."""
    if not condition:
        raise SystemExit(f"self-test of the suites failed: {message}")


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
