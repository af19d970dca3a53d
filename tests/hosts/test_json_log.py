"""With LOG_FORMAT=json, every line that a server writes is one JSON object of the documented form."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import httpx2
import pytest

from projkit.cli.logs import FIELDS
from tests.cli.running import PROJKIT
from tests.conftest import SECRET
from tests.corpora import ROOT
from tests.faults.conftest import headers, serve

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ACCESS = "projkit.access"


def parse(text: str) -> list[dict[str, Any]]:
    """Return the objects of a log; each line must be one, with known fields, a time in UTC, and no empty value."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message", "pid"} <= line.keys() <= set(FIELDS), line
        assert TIME.fullmatch(line["time"]), line
        assert not {None, "", "-"} & {value for value in line.values() if not isinstance(value, list)}, line
    return lines


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server(sqlite_url: str, workers: int) -> None:
    """The banner, warnings, requests, a killed worker and the stop are lines of JSON, of all processes."""
    environment: dict[str, Any] = {
        "PROJKIT_LOG_FORMAT": "json", "PROJKIT_ACCES_LOG": "1", "PROJKIT_LOG_CLIENT_ADDRESS": "true",
        "PROJKIT_TRUSTED_PROXIES": "127.0.0.1", "TZ": "America/New_York",
    }  # fmt: skip
    with serve(sqlite_url, arguments=("--access-log", "--workers", str(workers)), **environment) as server:
        sent = {**headers(), "X-Forwarded-For": "203.0.113.9"}
        for _ in range(3):
            assert httpx2.get(server.projects, headers=sent).status_code == 200
        assert httpx2.get(f"{server.url}/metrics").status_code == 200
        if workers > 1:
            pids = {line["pid"] for line in parse(server.log_text)} - {server.process.pid}
            os.kill(min(pids), signal.SIGKILL)
            deadline = time.monotonic() + 30
            while "is being replaced" not in server.log_text:
                assert time.monotonic() < deadline, server.log_text
                time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        lines = parse(server.log_text)
    assert lines[0]["message"].startswith("unknown setting PROJKIT_ACCES_LOG; did you mean")
    assert lines[1]["url"].endswith("/api/v1")
    assert "Bearer" not in str(lines)
    requests = [line for line in lines if line["logger"] == ACCESS]
    assert [(each["route"], each["client"]) for each in requests] == [("/api/v1/projects", "203.0.113.9")] * 3
    assert all("trace_id" not in each for each in requests)
    age = (
        time.time()
        - time.mktime(time.strptime(requests[0]["time"][:19], "%Y-%m-%dT%H:%M:%S"))
        + time.timezone
    )
    assert abs(age) < 300, "the time is UTC, whatever the server's time zone"
    if workers > 1:
        (death,) = [line for line in lines if "is being replaced" in line["message"]]
        assert (death["level"], death["pid"]) == ("warning", server.process.pid)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "wrong",
    [
        {"PROJKIT_ENV": "staging"},
        {"PROJKIT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        {"PROJKIT_METRICS_DIRECTORY": "/dev/null/none"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_server_that_cannot_start(sqlite_url: str, workers: int, wrong: dict[str, str]) -> None:
    """A failed start is reported in JSON as well, with the setting's name, by parent and workers."""
    environment = {
        **os.environ, "PROJKIT_LOG_FORMAT": "json", "PROJKIT_SECRET": SECRET, "PROJKIT_DATABASE_URL": sqlite_url,
        **wrong,
    }  # fmt: skip
    done = subprocess.run(
        [*PROJKIT, "serve", "--port", "0", "--workers", str(workers)],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout == ""
    assert any(line["level"] in {"error", "critical"} for line in parse(done.stderr)), done.stderr


def test_whatever_python_writes() -> None:
    """Warnings, uncaught exceptions and bad log calls are single lines, with the traceback in one field."""
    script = """
import logging, threading, warnings
from projkit.cli.logs import configure_early_logging
assert configure_early_logging()
warnings.warn("a warning\\nof two lines")
logging.getLogger("third.party").warning("%d items", "no number")
logging.getLogger("third.party").warning("lone \\ud800, \\x1b[31m, \\u2028 and \\xe9", extra={"request_id": object})
logging.getLogger("third.party").info("with a stack", stack_info=True)
class Odd:
    def __str__(self): raise ValueError("no text")
    __repr__ = __eq__ = __str__
    __hash__ = None
cycle = []; cycle.append(cycle)
nested = []
for _ in range(100_000): nested = [nested]
for odd in (Odd(), {(1, 2): 3}, cycle, nested, float("nan"), 10 ** 5000, b"\\xff", [Odd()]):
    logging.getLogger("odd").error("value", extra={"route": odd, "status": 200})
logging.getLogger("odd").error(Odd())
logging.getLogger("odd").error("text %s %s", Odd(), 1)
logging.getLogger("odd").error("%(a)d", {"a": "b"})
logging.getLogger("odd").error("failed", exc_info=type("OddError", (Exception,), {"__str__": Odd.__str__})())
def fail():
    raise LookupError("in a thread")
thread = threading.Thread(target=fail, name="mine"); thread.start(); thread.join()
def stop():
    raise SystemExit
thread = threading.Thread(target=stop); thread.start(); thread.join()
class Broken:
    def __del__(self):
        raise OSError("while deleting")
del (broken := [Broken()])[0]
raise ValueError("at the end")
"""
    environment = {**os.environ, "PROJKIT_LOG_FORMAT": "json", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lines = parse(done.stderr)
    odd_lines = [line for line in lines if line["logger"] == "odd"]
    messages = ["<Odd> ()", "text %s %s (<Odd>, 1)", "%(a)d ({'a': 'b'})", "failed"]
    assert [line["message"] for line in odd_lines[8:]] == messages
    for line in odd_lines[:8]:
        assert (line["message"], line["status"]) == ("value", 200)
        assert line["route"]
    warned, bad, odd, stack, thread, deleted, last = (line for line in lines if line["logger"] != "odd")
    assert (warned["logger"], "a warning\nof two lines" in warned["message"]) == ("py.warnings", True)
    assert bad["message"] == "%d items (no number)"
    assert odd["message"] == "lone \ud800, \x1b[31m, \u2028 and \xe9"
    assert "traceback" in stack
    assert thread["message"] == "uncaught LookupError in thread mine"
    assert "LookupError: in a thread" in thread["traceback"]
    assert "OSError: while deleting" in deleted["traceback"]
    assert (last["level"], last["message"]) == ("critical", "uncaught ValueError")
    assert last["traceback"].endswith("ValueError: at the end")


@pytest.mark.parametrize("wanted", [False, True])
def test_console_format(sqlite_url: str, wanted: bool) -> None:
    """The same settings hold for the console format: probes have no lines, and the client follows the message."""
    environment: dict[str, Any] = {
        "PROJKIT_ACCESS_LOG_PROBES": str(wanted),
        "PROJKIT_LOG_CLIENT_ADDRESS": str(wanted),
    }
    with serve(sqlite_url, arguments=("--access-log",), **environment) as server:
        httpx2.get(server.projects, headers=headers())
        httpx2.get(f"{server.url}/api/v1/health/ready")
        lines = [line for line in server.log_text.splitlines() if ACCESS in line]
    assert any("/api/v1/health/ready" in line for line in lines) is wanted
    assert all(line.endswith(" client=127.0.0.1") is wanted for line in lines)
    assert any("GET /api/v1/projects 200" in line for line in lines)


def test_fields_are_documented() -> None:
    """The document has each field of a line, in its order."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    table = text.partition("## Log lines")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == FIELDS
