"""HTTP sessions of the OTLP exporters, which read what the exporters ignore in a collector's responses."""

from typing import Any, Final

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from projkit.cli.otel.export_log import ExportLog

_PROTOBUF: Final = "application/x-protobuf"


class OtlpSession(requests.Session):
    """The session of one exporter, which sends one request at a time.

    Attributes:
        reason: why the last request failed, as a status or an exception class, never the exception's text, which may
            contain the URL or a header; "" if it succeeded.
        rejected: the number of spans or points that the collector rejected (OTLP "partial success").
    """

    reason = ""
    rejected = 0

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        self.reason, self.rejected = "", 0
        try:
            response = super().request(*arguments, **options)
        except Exception as error:
            self.reason = type(error).__name__
            raise
        if not 200 <= response.status_code < 300:
            self.reason = f"status {response.status_code}"
        # The exporter does not follow redirects, and would take them for a success.
        if 300 <= response.status_code < 400:
            raise requests.TooManyRedirects(self.reason)
        if not self.reason and response.headers.get("content-type") == _PROTOBUF:
            self.rejected = _rejected(response.content)
            self.reason = "rejected by the collector" if self.rejected else ""
        return response


def _rejected(content: bytes) -> int:
    # A response about metrics has its number of points in the same field.
    try:
        return max(0, int(ExportTraceServiceResponse.FromString(content).partial_success.rejected_spans))
    except DecodeError:
        return 0


class LoggingMetricExporter(OTLPMetricExporter):
    """An exporter of metrics that logs its failures."""

    def __init__(self, endpoint: str, export_log: ExportLog) -> None:
        self._otlp_session = OtlpSession()
        self._export_log = export_log
        super().__init__(endpoint, session=self._otlp_session)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **options: Any
    ) -> MetricExportResult:
        try:
            result = super().export(metrics_data, timeout_millis, **options)
        except requests.RequestException:  # raised by older exporters; the session has the reason
            result = MetricExportResult.FAILURE
        failed = self._otlp_session.rejected if result is MetricExportResult.SUCCESS else 1
        self._export_log.record_export(failed, self._otlp_session.reason)
        return result
