"""The providers that ``projkit serve`` makes, in each of its workers; this imports the SDK."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased

from projkit.cli.otel.complaints import Complaints
from projkit.cli.otel.sending import MetricExporter, Sending
from projkit.cli.otel.spans import CLOSE_SECONDS, SHUTDOWN_SECONDS, BoundedProcessor, CountedExporter, Ledger
from projkit.cli.otel.variables import Export, Sampling, origin_of
from projkit.version import __version__

_CONSOLE: Final = "the console"


class TelemetryProviders:
    """What a worker exports with.

    Attributes:
        tracer_provider: makes spans; None where traces are not exported.
        meter_provider: the same for metrics.
        ledger: what became of the spans.
    """

    def __init__(self, export: Export, on_spans: Callable[[str, int], None]) -> None:
        resource = _resource()
        self.ledger = Ledger(export.queue_size, on_spans)
        self.tracer_provider: TracerProvider | None = None
        self.meter_provider: MeterProvider | None = None
        if "traces" in export.endpoints:
            self.tracer_provider = _tracer_provider(export, resource, self.ledger)
        if "metrics" in export.endpoints:
            self.meter_provider = _meter_provider(export, resource)

    def set_globally(self) -> None:
        """Lets every instrumented library of this process find the providers."""
        if self.tracer_provider is not None:
            trace.set_tracer_provider(self.tracer_provider)
        if self.meter_provider is not None:
            metrics.set_meter_provider(self.meter_provider)

    async def close(self) -> None:
        """Exports what is left, for at most five seconds, in which the event loop goes on."""
        work: list[Callable[[], None]] = []
        if self.tracer_provider is not None:
            work.append(self.tracer_provider.shutdown)
        if (meters := self.meter_provider) is not None:
            work.append(lambda: meters.shutdown(timeout_millis=SHUTDOWN_SECONDS * 1000))
        await asyncio.gather(*map(_in_a_thread, work))


async def _in_a_thread(work: Callable[[], None]) -> None:
    # No executor: its threads are waited for when the loop closes and when the interpreter ends.
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="projkit-telemetry", daemon=True).start()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), CLOSE_SECONDS)


def _resource() -> Resource:
    own: dict[str, Any] = {
        "service.name": "projkit",
        "service.version": __version__,
        "service.instance.id": str(uuid4()),
        # Tells workers apart also where the environment gives all of them one service.instance.id.
        "process.pid": os.getpid(),
    }
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


def _sampler(sampling: Sampling) -> Sampler:
    fixed = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF}
    sampler = fixed.get(sampling.kind) or TraceIdRatioBased(sampling.ratio)
    return ParentBased(sampler) if sampling.parent_based else sampler


def _tracer_provider(export: Export, resource: Resource, ledger: Ledger) -> TracerProvider:
    provider = TracerProvider(_sampler(export.sampling), resource, shutdown_on_exit=False)
    exporter: SpanExporter = ConsoleSpanExporter(out=sys.stdout)
    sending, where = None, _CONSOLE
    if endpoint := export.endpoints["traces"]:
        sending, where = Sending(), origin_of(endpoint)
        exporter = OTLPSpanExporter(endpoint, session=sending)
    complaints = Complaints("spans", where)
    counted = CountedExporter(exporter, ledger, complaints, sending)
    provider.add_span_processor(
        BoundedProcessor(counted, ledger, complaints, batch=export.batch_size, delay=export.delay)
    )
    return provider


def _meter_provider(export: Export, resource: Resource) -> MeterProvider:
    endpoint = export.endpoints["metrics"]
    exporter = MetricExporter(endpoint, Complaints("metrics", origin_of(endpoint))) if endpoint else None
    reader = PeriodicExportingMetricReader(
        exporter or ConsoleMetricExporter(out=sys.stdout), export.interval, export.timeout
    )
    return MeterProvider([reader], resource, shutdown_on_exit=False)
