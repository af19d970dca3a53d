"""The cost of observability: metrics alone, and with traces of 1 % and of all requests.

Under load: four ``projkit serve``, one of which records nothing, measured in turn at 16 connections; a collector on the
other core receives the spans. In process: the same four, one request at a time, round robin, because no load generator
can resolve microseconds. Ratios are computed within each round; the tables have their median and range. The exit code
is 1 if metrics and traces of 1 % cost more than a fifth of the throughput.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Event, Pipe, Process
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from harness import data, kit, servers, unrecorded, wrk
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from peers.common import API, DATABASE_URL, SECRET, make_token
from rich.table import Table
from run import BODY, QUICK_SLACK, Case, console, measure

from projkit import ProjKit, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOTHING, METRICS = "nothing", "metrics"
RATIOS = {"metrics, traces 0.01": 0.01, "metrics, traces 1.0": 1.0}
VARIANTS = (NOTHING, METRICS, *RATIOS)
MAX_COST = 0.2  # as a share of the throughput
LIMITED = "metrics, traces 0.01"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="The number of measurements of each case.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="The duration of each measurement.")] = 4.0,
    quick: Annotated[
        bool, typer.Option(help="Only GET, 3 rounds of 2 seconds, and a 30 % lower limit.")
    ] = False,
) -> None:
    """Measure, print the tables, and fail if the limit is exceeded."""
    if quick:
        rounds, seconds = 3, 2.0
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    kit.migrate(servers.environment())
    asyncio.run(data.load_kit(kit.TABLE, kit.COPY))
    asyncio.run(_in_process(rounds * 5))
    remaining = _under_load(rounds, seconds, "GET 16" if quick else "")
    if remaining < (1 - MAX_COST) * (QUICK_SLACK if quick else 1.0):
        console.print(
            f"failed: observability costs {1 - remaining:.0%} of the throughput, the limit is {MAX_COST:.0%}"
        )
        sys.exit(1)


# --- under load


def _under_load(rounds: int, seconds: float, only: str) -> float:
    """Print the remaining shares of the throughput; return that of a GET with metrics and traces of 1 %."""
    with ExitStack() as stack:
        endpoint = stack.enter_context(_collector())
        running = {
            name: stack.enter_context(servers.running(_spec(name, endpoint), servers.environment()))
            for name in VARIANTS
        }
        ids = asyncio.run(data.some_ids(data.READER, 512))
        projects = f"{API}/projects"
        cases = [
            Case("GET 16", [wrk.Request("GET", f"{projects}/{each}") for each in ids], 16, servers=VARIANTS),
            Case("LIST 16", [wrk.Request("GET", f"{projects}?limit=20")], 16, servers=VARIANTS),
            Case("POST 16", [wrk.Request("POST", projects, BODY)], 16, data.WRITER, VARIANTS),
            Case("health/live 64", [wrk.Request("GET", f"{API}/health/live")], 64, servers=VARIANTS),
        ]
        cases = [case for case in cases if only in case.name]
        results = measure(cases, running, rounds, seconds)
    table = Table("case", *VARIANTS, title="req/s, and their share of those without records")
    remaining: dict[tuple[str, str], float] = {}
    for case in cases:
        base = [each.per_second for each in results[case.name, NOTHING]]
        cells = []
        for name in VARIANTS:
            rates = [each.per_second for each in results[case.name, name]]
            ratios = [a / b for a, b in zip(rates, base, strict=True)]
            remaining[case.name, name] = median(ratios)
            cells.append(
                f"{median(rates):,.0f}  {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        table.add_row(case.name, *cells)
    console.print(table)
    return remaining["GET 16", LIMITED]


def _spec(name: str, endpoint: str) -> servers.Spec:
    spec = kit.spec()
    if name == NOTHING:

        def command(port: int) -> list[str]:
            return [sys.executable, unrecorded.__file__, *spec.command(port)[1:]]

        return replace(spec, name=name, command=command)
    if name == METRICS:
        return replace(spec, name=name)
    traces = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{endpoint}/v1/traces",
        "PROJKIT_TRACE_RATIO": str(RATIOS[name]),
    }
    return replace(spec, name=name, variables={**spec.variables, **traces})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _serve_collector(port: Any, ended: Any) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        port.send(server.server_address[1])
        server.timeout = 0.1
        while not ended.is_set():
            server.handle_request()


@contextmanager
def _collector() -> Iterator[str]:
    """Run a collector that discards spans, in a process on the load generator's core."""
    parent, child = Pipe()
    ended = Event()
    process = Process(target=_serve_collector, args=(child, ended), daemon=True)
    process.start()
    if process.pid is not None:
        wrk.pin(process.pid, wrk.LOAD_CORE)
    try:
        yield f"http://127.0.0.1:{parent.recv()}"
    finally:
        ended.set()
        process.join(5)


# --- in process


class _Encoder(SpanExporter):
    """An exporter that encodes spans and sends nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def _provider(ratio: float) -> TracerProvider:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)))
    provider.add_span_processor(BatchSpanProcessor(_Encoder(), max_queue_size=100_000))
    return provider


def _kit(name: str, provider: TracerProvider | None) -> ProjKit:
    kit = ProjKit(Settings(database_url=DATABASE_URL, secret=SECRET), tracer_provider=provider)
    if name == NOTHING:
        unrecorded.discard_events(kit._recorder)
    return kit


async def _in_process(rounds: int, requests: int = 200) -> None:
    ids = await data.some_ids(data.READER, requests)
    token = make_token(data.READER)
    providers = {name: _provider(ratio) for name, ratio in RATIOS.items()}
    kits = {name: _kit(name, providers.get(name)) for name in VARIANTS}
    paths = {
        "GET": [f"{API}/projects/{each}" for each in ids],
        "401": [f"{API}/projects/{each}" for each in ids],
        "health/live": [f"{API}/health/live"] * requests,
    }
    table = Table(
        "case",
        *VARIANTS,
        title="in process: CPU µs per request without records, and what the others add",
    )
    async with AsyncExitStack() as stack:
        for each in kits.values():
            await stack.enter_async_context(each.lifespan())
        for case, targets in paths.items():
            headers = [(b"host", b"bench"), (b"accept", b"*/*"), (b"user-agent", b"bench")]
            if case != "401":
                headers.append((b"authorization", f"Bearer {token}".encode()))
            times: dict[str, list[float]] = {name: [] for name in VARIANTS}
            for number in range(rounds + 2):
                for name in VARIANTS:
                    cpu = await _cpu_us(kits[name], targets, headers, providers.get(name))
                    if number > 1:
                        times[name].append(cpu)
            base = times[NOTHING]
            cells = [f"{median(base):.1f}"]
            for name in VARIANTS[1:]:
                added = [a - b for a, b in zip(times[name], base, strict=True)]
                cells.append(f"{median(added):+.1f} ({min(added):+.1f} to {max(added):+.1f})")
            table.add_row(case, *cells)
    console.print(table)


async def _cpu_us(
    app: ProjKit, targets: Sequence[str], headers: list[tuple[bytes, bytes]], provider: TracerProvider | None
) -> float:
    """Return the CPU time of a request in µs, including the export of its spans."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "query_string": b"", "root_path": "", "client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    started = time.process_time()
    for target in targets:
        await app(
            {**scope, "path": target, "raw_path": target.encode(), "headers": list(headers)}, receive, send
        )
    if provider is not None:
        provider.force_flush()
    return (time.process_time() - started) / len(targets) * 1e6


if __name__ == "__main__":
    typer.run(main)
