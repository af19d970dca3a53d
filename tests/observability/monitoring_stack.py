"""Prometheus and Alertmanager with the shipped configuration, and a webhook that receives alerts."""

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

from projkit.testing.servers import free_port
from tests.corpora import ROOT
from tests.services import missing

ASSETS: Final = ROOT / "src" / "projkit" / "assets"
PROMETHEUS: Final = ASSETS / "prometheus"
METRICS_TOKEN: Final = "a metrics token of the tests, long enough"
TIMEOUT_SECONDS: Final = 60
_KILLED_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL")
Samples = list[dict[str, Any]]


def installed(*programs: str) -> None:
    """Skip the test if a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            missing(f"{program} is not installed; see scripts/debian-packages")


def wait_until(
    condition: Callable[[], object], describe: Callable[[], object], seconds: float = TIMEOUT_SECONDS
) -> None:
    """Wait for a condition; connection errors count as not yet true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(describe())


class Prometheus:
    """A running Prometheus."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def get(self, path: str, **params: Any) -> Any:
        """Call the API; fail with Prometheus' message for an invalid query."""
        content = self.client.get(f"/api/v1{path}", params=params).json()
        assert content["status"] == "success", f"{params}: {content['error']}"
        return content["data"]

    def query(self, expr: str) -> Samples:
        """Return the current samples of a query."""
        samples: Samples = self.get("/query", query=expr)["result"]
        return samples

    def over_time(self, expr: str) -> Samples:
        """Return the series of the last minute."""
        end = time.time()
        samples: Samples = self.get("/query_range", query=expr, start=end - 60, end=end, step=1)["result"]
        return samples

    def value(self, expr: str) -> float:
        """Return the value of the only sample."""
        (sample,) = self.query(expr)
        return float(sample["value"][1])

    def catch_up(self) -> None:
        """Wait for two more scrapes of each target, so that new counts have a rate."""
        for _ in range(2):
            self._scraped_since(datetime.now(UTC))

    def _scraped_since(self, moment: datetime) -> None:
        def all_scraped() -> bool:
            targets = self.get("/targets")["activeTargets"]
            scraped = [
                each["health"] == "up" and datetime.fromisoformat(each["lastScrape"]) > moment
                for each in targets
            ]
            return bool(scraped) and all(scraped)

        wait_until(all_scraped, lambda: self.get("/targets"))


@contextmanager
def prometheus(directory: Path, targets: Sequence[str], alertmanager: str) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped example; only intervals, targets and Alertmanager's address are changed."""
    installed("prometheus")
    for source in PROMETHEUS.glob("*.yml"):
        shutil.copy(source, directory)
    (directory / "metrics-token").write_text(f"{METRICS_TOKEN}\n")
    config = directory / "prometheus.yml"
    text = config.read_text()
    for shipped, changed in (
        ("_interval: 15s", "_interval: 1s"),
        ('["127.0.0.1:8000"]', json.dumps(list(targets))),
        ('["127.0.0.1:9093"]', json.dumps([alertmanager])),
    ):
        assert shipped in text
        text = text.replace(shipped, changed)
    config.write_text(text)
    # The objective of latency would take minutes to miss: here its budget is spent in seconds.
    for name, shipped, changed in (
        ("recording-rules.yml", "take at most 40 ms\n        expr: vector(0.01)",
         "take at most 40 ms\n        expr: vector(0.00001)"),
        ("alerts.yml", "for: 2m\n        labels: *page_1h", "for: 1s\n        labels: *page_1h"),
    ):  # fmt: skip
        text = (directory / name).read_text()
        assert shipped in text
        (directory / name).write_text(text.replace(shipped, changed))
    port = free_port()
    arguments = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn",
    ]  # fmt: skip
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    with client, _running(arguments, directory / "prometheus.log") as log:
        wait_until(lambda: client.get("/-/ready").status_code == 200, log.read_text)
        yield Prometheus(client)


@contextmanager
def alertmanager(directory: Path, webhook: str) -> Iterator[str]:
    """Run Alertmanager with the shipped example; only the receiver's address and the waits are changed."""
    installed("prometheus-alertmanager")
    text = (PROMETHEUS / "alertmanager.yml").read_text()
    waits = (("group_wait: 10s", "group_wait: 1s"), ("group_wait: 30s", "group_wait: 1s"))
    for shipped, changed in (("http://127.0.0.1:5001", webhook), *waits):
        assert shipped in text
        text = text.replace(shipped, changed)
    config = directory / "alertmanager-here.yml"
    config.write_text(text)
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with _running(arguments, directory / "alertmanager.log") as log:
        wait_until(lambda: httpx2.get(f"http://{address}/-/ready").status_code == 200, log.read_text)
        yield address


@contextmanager
def _running(arguments: Sequence[str], log: Path) -> Iterator[Path]:
    with log.open("wb") as output:
        process = subprocess.Popen([*_KILLED_WITH_PARENT, *arguments], stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.kill()
        process.wait()


class Receiver:
    """A receiver of alerts, which keeps each with the path of its webhook."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, dict[str, Any]]] = []

    def names(self, path: str) -> set[str]:
        """Return the names of the firing alerts that arrived at a path."""
        return {
            alert["labels"]["alertname"]
            for received_at, alert in self.alerts
            if received_at == path and alert["status"] == "firing"
        }


@contextmanager
def receiver() -> Iterator[tuple[Receiver, str]]:
    """Run a webhook; yield the receiver and its address."""
    alerts = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            alerts.alerts += [(self.path, alert) for alert in body["alerts"]]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield alerts, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
