"""OpenTelemetry providers of a ``projkit serve`` worker; importing this module imports the SDK."""

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
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased

from projkit.cli.otel.export_log import ExportLog
from projkit.cli.otel.export_settings import ExportSettings, SamplerSettings, origin_of
from projkit.cli.otel.otlp_session import LoggingMetricExporter, OtlpSession
from projkit.cli.otel.spans import (
    CLOSE_SECONDS,
    SHUTDOWN_SECONDS,
    BoundedSpanProcessor,
    CountingSpanExporter,
    SpanAccounting,
)
from projkit.version import __version__

_CONSOLE: Final = "the console"


class TelemetryProviders:
    """The providers of a worker.

    Attributes:
        tracer_provider: None if traces are not exported.
        meter_provider: None if metrics are not exported.
        accounting: the outcomes of the spans.
    """

    def __init__(self, export: ExportSettings, on_spans: Callable[[str, int], None]) -> None:
        resource = _resource()
        self.accounting = SpanAccounting(export.queue_size, on_spans)
        self.tracer_provider: TracerProvider | None = None
        self.meter_provider: MeterProvider | None = None
        if "traces" in export.endpoints:
            self.tracer_provider = _tracer_provider(export, resource, self.accounting)
        if "metrics" in export.endpoints:
            self.meter_provider = _meter_provider(export, resource)

    def set_globally(self) -> None:
        """Make these the global providers, for every instrumented library of the process."""
        if self.tracer_provider is not None:
            trace.set_tracer_provider(self.tracer_provider)
        if self.meter_provider is not None:
            metrics.set_meter_provider(self.meter_provider)

    async def close(self) -> None:
        """Export what is left, for at most five seconds and without blocking the event loop."""
        shutdowns: list[Callable[[], None]] = []
        if self.tracer_provider is not None:
            shutdowns.append(self.tracer_provider.shutdown)
        if (meter_provider := self.meter_provider) is not None:
            shutdowns.append(lambda: meter_provider.shutdown(timeout_millis=SHUTDOWN_SECONDS * 1000))
        await asyncio.gather(*map(_run_in_daemon_thread, shutdowns))


async def _run_in_daemon_thread(work: Callable[[], None]) -> None:
    # Not an executor: closing the loop and the exit of the interpreter wait for its threads.
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="projkit-telemetry", daemon=True).start()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), CLOSE_SECONDS)


def _resource() -> Resource:
    own: dict[str, Any] = {
        "service.name": "projkit",
        "service.version": __version__,
        "service.instance.id": str(uuid4()),
        # Distinguishes workers even if the environment gives all of them the same service.instance.id.
        "process.pid": os.getpid(),
    }
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


def _sampler(sampler_settings: SamplerSettings) -> Sampler:
    fixed = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF}
    sampler = fixed.get(sampler_settings.kind) or TraceIdRatioBased(sampler_settings.ratio)
    return ParentBased(sampler) if sampler_settings.parent_based else sampler


def _tracer_provider(
    export: ExportSettings, resource: Resource, accounting: SpanAccounting
) -> TracerProvider:
    provider = TracerProvider(_sampler(export.sampler), resource, shutdown_on_exit=False)
    exporter: SpanExporter = ConsoleSpanExporter(out=sys.stdout)
    session, destination = None, _CONSOLE
    if endpoint := export.endpoints["traces"]:
        session, destination = OtlpSession(), origin_of(endpoint)
        exporter = OTLPSpanExporter(endpoint, session=session)
    export_log = ExportLog("spans", destination)
    counting = CountingSpanExporter(exporter, accounting, export_log, session)
    provider.add_span_processor(
        BoundedSpanProcessor(
            counting,
            accounting,
            export_log,
            batch_size=export.batch_size,
            delay_ms=export.span_delay_ms,
        )
    )
    return provider


def _meter_provider(export: ExportSettings, resource: Resource) -> MeterProvider:
    exporter: MetricExporter = ConsoleMetricExporter(out=sys.stdout)
    if endpoint := export.endpoints["metrics"]:
        exporter = LoggingMetricExporter(endpoint, ExportLog("metrics", origin_of(endpoint)))
    reader = PeriodicExportingMetricReader(exporter, export.metric_interval_ms, export.metric_timeout_ms)
    return MeterProvider([reader], resource, shutdown_on_exit=False)
