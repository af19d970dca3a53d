"""Prometheus and Alertmanager with the configuration that is shipped, and somebody who is told of alerts."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.corpora import ROOT
from tests.redis_servers import free_port
from tests.services import missing

ASSETS: Final = ROOT / "src" / "projkit" / "assets"
PROMETHEUS: Final = ASSETS / "prometheus"
METRICS_TOKEN: Final = "a metrics token of the tests, long enough"
SECONDS: Final = 60
_DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL")
Samples = list[dict[str, Any]]


def installed(*programs: str) -> None:
    """Skips where one is not."""
    for program in programs:
        if shutil.which(program) is None:
            missing(f"{program} is not installed; see scripts/debian-packages")


def until(look: Callable[[], object], complaint: Callable[[], object], seconds: float = SECONDS) -> None:
    """Waits until it is true; an address that nobody listens at yet is waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if look():
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(complaint())


class Prometheus:
    """A running one."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def get(self, path: str, **params: Any) -> Any:
        """What the API says; a query that is wrong fails with what Prometheus says of it."""
        answer = self.client.get(f"/api/v1{path}", params=params).json()
        assert answer["status"] == "success", f"{params}: {answer['error']}"
        return answer["data"]

    def query(self, expr: str) -> Samples:
        """The samples of now."""
        found: Samples = self.get("/query", query=expr)["result"]
        return found

    def over_time(self, expr: str) -> Samples:
        """The series of the last minute."""
        end = time.time()
        found: Samples = self.get("/query_range", query=expr, start=end - 60, end=end, step=1)["result"]
        return found

    def value(self, expr: str) -> float:
        """The value of the only sample."""
        (sample,) = self.query(expr)
        return float(sample["value"][1])

    def catch_up(self) -> None:
        """Waits until each target has been scraped twice from now on: what is new until then has a rate as well."""
        for _ in range(2):
            self._scraped_since(datetime.now(UTC))

    def _scraped_since(self, moment: datetime) -> None:
        def all_were() -> bool:
            targets = self.get("/targets")["activeTargets"]
            scraped = [
                each["health"] == "up" and datetime.fromisoformat(each["lastScrape"]) > moment
                for each in targets
            ]
            return bool(scraped) and all(scraped)

        until(all_were, lambda: self.get("/targets"))


@contextmanager
def prometheus(directory: Path, targets: Sequence[str], alertmanager: str) -> Iterator[Prometheus]:
    """Runs it with the shipped example; of that, only times, targets and Alertmanager's address are others."""
    installed("prometheus")
    for source in PROMETHEUS.glob("*.yml"):
        shutil.copy(source, directory)
    (directory / "metrics-token").write_text(f"{METRICS_TOKEN}\n")
    config = directory / "prometheus.yml"
    text = config.read_text()
    for there, here in (
        ("_interval: 15s", "_interval: 1s"),
        ('["127.0.0.1:8000"]', json.dumps(list(targets))),
        ('["127.0.0.1:9093"]', json.dumps([alertmanager])),
    ):
        assert there in text
        text = text.replace(there, here)
    config.write_text(text)
    port = free_port()
    arguments = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn",
    ]  # fmt: skip
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    with client, _running(arguments, directory / "prometheus.log") as log:
        until(lambda: client.get("/-/ready").status_code == 200, log.read_text)
        yield Prometheus(client)


@contextmanager
def alertmanager(directory: Path, webhook: str) -> Iterator[str]:
    """Runs it with the shipped example; of that, only the receiver's address and the first wait are others."""
    installed("prometheus-alertmanager")
    text = (PROMETHEUS / "alertmanager.yml").read_text()
    for there, here in (("http://127.0.0.1:5001", webhook), ("group_wait: 10s", "group_wait: 1s")):
        assert there in text
        text = text.replace(there, here)
    config = directory / "alertmanager-here.yml"
    config.write_text(text)
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with _running(arguments, directory / "alertmanager.log") as log:
        until(lambda: httpx2.get(f"http://{address}/-/ready").status_code == 200, log.read_text)
        yield address


@contextmanager
def _running(arguments: Sequence[str], log: Path) -> Iterator[Path]:
    with log.open("wb") as output:
        process = subprocess.Popen([*_DIES_WITH_US, *arguments], stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.kill()
        process.wait()


class Receiver:
    """Who is told of alerts; keeps each with the path that it came by."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def names(self, path: str) -> set[str]:
        """The firing alerts that came by a path."""
        return {
            alert["labels"]["alertname"]
            for came_by, alert in self.told
            if came_by == path and alert["status"] == "firing"
        }


@contextmanager
def receiver() -> Iterator[tuple[Receiver, str]]:
    """A webhook of the tests', and its address."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found.told += [(self.path, alert) for alert in body["alerts"]]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
