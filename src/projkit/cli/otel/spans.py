"""Spans on their way out: held within a bound, counted whatever becomes of them, and never waited for by a request."""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from projkit.cli.otel.complaints import Complaints
from projkit.cli.otel.sending import Sending

# What a worker that stops waits for its last spans, however the collector is, and what it has left to count them.
CLOSE_SECONDS: Final = 5.0
SHUTDOWN_SECONDS: Final = CLOSE_SECONDS - 0.5


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Whether ``work`` has ended in time; where it has not it goes on, in a thread that holds nobody up at the exit."""
    thread = threading.Thread(target=work, name="projkit-telemetry", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


class Ledger:
    """What became of every span: those handed in are the exported, the failed, the dropped, and those that are held.

    Args:
        most: so many are held, those that are on their way included.
        on_spans: see ``open_telemetry``.
    """

    def __init__(self, most: int, on_spans: Callable[[str, int], None]) -> None:
        self.most = most
        self.held = 0
        self.stopping = False
        self.closed = False
        self._on_spans = on_spans
        self._lock = threading.Lock()

    def admit(self) -> bool:
        """Whether there is room for one more, which is held from now on; else it is dropped."""
        with self._lock:
            if self.held < self.most and not self.stopping:
                self.held += 1
                return True
            self._on_spans("dropped", 1)
            return False

    def settle(self, exported: int, failed: int) -> None:
        """So many are held no longer."""
        with self._lock:
            if self.closed:  # and these were dropped with all others
                return
            self.held -= exported + failed
            for outcome, count in (("exported", exported), ("failed", failed)):
                if count:
                    self._on_spans(outcome, count)

    def close(self) -> int:
        """Drops whatever is held, and from now on everything; gives how many there were."""
        with self._lock:
            self.stopping = self.closed = True
            left, self.held = self.held, 0
            if left:
                self._on_spans("dropped", left)
            return left


class CountedExporter(SpanExporter):
    """Another exporter, whose outcomes are entered in the ledger.

    Args:
        sending: how the other exporter sends, if it does; it knows what a collector has rejected, and why it failed.
    """

    def __init__(
        self, exporter: SpanExporter, ledger: Ledger, complaints: Complaints, sending: Sending | None
    ) -> None:
        self._exporter = exporter
        self._ledger = ledger
        self._complaints = complaints
        self._sending = sending

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._ledger.closed:
            return SpanExportResult.FAILURE
        failed, raised = len(spans), ""
        try:
            if self._exporter.export(spans) is SpanExportResult.SUCCESS:
                failed = 0 if self._sending is None else min(self._sending.rejected, failed)
        except Exception as error:  # older exporters let some of them through
            raised = type(error).__name__
        self._ledger.settle(len(spans) - failed, failed)
        self._complaints.done(failed, (self._sending.reason if self._sending else "") or raised)
        return SpanExportResult.FAILURE if failed else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class BoundedProcessor(BatchSpanProcessor):
    """The SDK's batches, behind a ledger.

    The SDK's own queue drops without telling, and the oldest; as large as the ledger, it is never full. Its
    ``shutdown`` waits for half a minute and its ``force_flush`` for as long as it takes.
    """

    def __init__(
        self, exporter: CountedExporter, ledger: Ledger, complaints: Complaints, *, batch: int, delay: int
    ):
        super().__init__(
            exporter, max_queue_size=ledger.most, max_export_batch_size=batch, schedule_delay_millis=delay
        )
        self._ledger = ledger
        self._complaints = complaints
        self._outlet = exporter

    def on_end(self, span: ReadableSpan) -> None:
        if not span.context or not span.context.trace_flags.sampled:
            return
        if self._ledger.admit():
            super().on_end(span)
        elif not self._ledger.stopping:  # what ends later is nobody's fault
            self._complaints.dropped(1)

    def shutdown(self) -> None:
        """Exports what is held, while there is time; what is left then is dropped."""
        if self._ledger.stopping:
            return
        self._ledger.stopping = True
        finished = within(SHUTDOWN_SECONDS, super().shutdown)
        self._complaints.dropped(self._ledger.close())
        if not finished:
            self._outlet.shutdown()  # ends the pauses between its tries

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        seconds = SHUTDOWN_SECONDS if timeout_millis is None else timeout_millis / 1000
        flush = super().force_flush
        return within(seconds, flush)
