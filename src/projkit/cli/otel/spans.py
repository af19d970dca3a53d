"""Export of spans with bounded memory and exact counts of their outcomes, without delaying requests."""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from projkit.cli.otel.export_log import ExportLog
from projkit.cli.otel.otlp_session import OtlpSession

# How long a stopping worker waits for its last spans, and how much of that the exporters get.
CLOSE_SECONDS: Final = 5.0
SHUTDOWN_SECONDS: Final = CLOSE_SECONDS - 0.5


def run_with_timeout(seconds: float, work: Callable[[], object]) -> bool:
    """Return whether ``work`` ended in time; otherwise it continues in a daemon thread, which delays no exit."""
    thread = threading.Thread(target=work, name="projkit-telemetry", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


class SpanAccounting:
    """Counts of the outcome of every span, and the bound on the spans held in memory.

    Every span that was handed in is exported, failed, dropped or held.

    Args:
        max_held: the maximum number of spans held, including those being exported.
        on_spans: see :func:`~projkit.cli.otel.open_telemetry`.
    """

    def __init__(self, max_held: int, on_spans: Callable[[str, int], None]) -> None:
        self.max_held = max_held
        self.held = 0
        self.stopping = False
        self.closed = False
        self._on_spans = on_spans
        self._lock = threading.Lock()

    def admit(self) -> bool:
        """Hold one more span if there is room; otherwise count it as dropped and return False."""
        with self._lock:
            if self.held < self.max_held and not self.stopping:
                self.held += 1
                return True
            self._on_spans("dropped", 1)
            return False

    def settle(self, exported: int, failed: int) -> None:
        """Count the outcomes of spans that are no longer held."""
        with self._lock:
            if self.closed:  # they were counted as dropped
                return
            self.held -= exported + failed
            for outcome, count in (("exported", exported), ("failed", failed)):
                if count:
                    self._on_spans(outcome, count)

    def close(self) -> int:
        """Drop the held spans, whose number is returned, and any further ones."""
        with self._lock:
            self.stopping = self.closed = True
            left, self.held = self.held, 0
            if left:
                self._on_spans("dropped", left)
            return left


class CountingSpanExporter(SpanExporter):
    """A wrapper of another exporter that counts and logs its outcomes.

    Args:
        session: the HTTP session of the other exporter, if it has one; it knows why a request failed, and what the
            collector rejected.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        accounting: SpanAccounting,
        export_log: ExportLog,
        session: OtlpSession | None,
    ) -> None:
        self._exporter = exporter
        self._accounting = accounting
        self._export_log = export_log
        self._session = session

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._accounting.closed:
            return SpanExportResult.FAILURE
        failed, raised = len(spans), ""
        try:
            if self._exporter.export(spans) is SpanExportResult.SUCCESS:
                failed = 0 if self._session is None else min(self._session.rejected, failed)
        except Exception as error:  # older exporters raise some of them
            raised = type(error).__name__
        self._accounting.settle(len(spans) - failed, failed)
        self._export_log.record_export(failed, (self._session.reason if self._session else "") or raised)
        return SpanExportResult.FAILURE if failed else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class BoundedSpanProcessor(BatchSpanProcessor):
    """The SDK's batch processor with exact accounting and bounded waits.

    When the SDK's own queue is full, it drops the oldest span without counting it. The accounting admits no more spans
    than the queue can hold, so that never happens. The SDK's ``shutdown`` waits for half a minute, and its
    ``force_flush`` without a bound.
    """

    def __init__(
        self,
        exporter: CountingSpanExporter,
        accounting: SpanAccounting,
        export_log: ExportLog,
        *,
        batch_size: int,
        delay_ms: int,
    ):
        super().__init__(
            exporter,
            max_queue_size=accounting.max_held,
            schedule_delay_millis=delay_ms,
            max_export_batch_size=batch_size,
        )
        self._accounting = accounting
        self._export_log = export_log
        self._counting_exporter = exporter

    def on_end(self, span: ReadableSpan) -> None:
        if not span.context or not span.context.trace_flags.sampled:
            return
        if self._accounting.admit():
            super().on_end(span)
        elif not self._accounting.stopping:  # spans that end after the stop are not logged
            self._export_log.record_dropped(1)

    def shutdown(self) -> None:
        """Export the held spans within :data:`SHUTDOWN_SECONDS`, and drop the rest."""
        if self._accounting.stopping:
            return
        self._accounting.stopping = True
        finished = run_with_timeout(SHUTDOWN_SECONDS, super().shutdown)
        self._export_log.record_dropped(self._accounting.close())
        if not finished:
            self._counting_exporter.shutdown()  # ends the pauses between its retries

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        seconds = SHUTDOWN_SECONDS if timeout_millis is None else timeout_millis / 1000
        flush = super().force_flush
        return run_with_timeout(seconds, flush)
