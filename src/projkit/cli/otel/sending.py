"""How the exporters reach a collector: what the OTLP exporter does not tell of its answers is read here."""

from typing import Any, Final

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from projkit.cli.otel.complaints import Complaints

_PROTOBUF: Final = "application/x-protobuf"


class Sending(requests.Session):
    """The session of one exporter, which asks one thing after the other.

    Attributes:
        reason: why the last request failed: a status or the kind of error, and nothing of its text, which may have the
            URL or a header in it; empty where it did not.
        rejected: how many spans or points of it the collector says that it did not take (OTLP "partial success").
    """

    reason = ""
    rejected = 0

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        self.reason, self.rejected = "", 0
        try:
            answer = super().request(*arguments, **options)
        except Exception as error:
            self.reason = type(error).__name__
            raise
        if not 200 <= answer.status_code < 300:
            self.reason = f"status {answer.status_code}"
        if 300 <= answer.status_code < 400:  # is not followed, and would pass for a success
            raise requests.TooManyRedirects(self.reason)
        if not self.reason and answer.headers.get("content-type") == _PROTOBUF:
            self.rejected = _rejected(answer.content)
            self.reason = "rejected by the collector" if self.rejected else ""
        return answer


def _rejected(content: bytes) -> int:
    # An answer about metrics has its number of points at the same place.
    try:
        return max(0, int(ExportTraceServiceResponse.FromString(content).partial_success.rejected_spans))
    except DecodeError:
        return 0


class MetricExporter(OTLPMetricExporter):
    """The exporter of metrics, whose failures have a line in the log."""

    def __init__(self, endpoint: str, complaints: Complaints) -> None:
        self._sending = Sending()
        self._complaints = complaints
        super().__init__(endpoint, session=self._sending)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **options: Any
    ) -> MetricExportResult:
        try:
            result = super().export(metrics_data, timeout_millis, **options)
        except requests.RequestException:  # older exporters let it through; the reason is known
            result = MetricExportResult.FAILURE
        failed = self._sending.rejected if result is MetricExportResult.SUCCESS else 1
        self._complaints.done(failed, self._sending.reason)
        return result
