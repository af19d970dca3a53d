"""The kit's metrics as OpenTelemetry instruments, for a host that has a MeterProvider.

Durations are recorded directly in histograms of the semantic conventions; everything else is read from the recorder
when a reader collects. Each process reports its own metrics only; the backend adds them up.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, NoOpMeterProvider, Observation
from opentelemetry.semconv.attributes import db_attributes as db
from opentelemetry.semconv.attributes import http_attributes as http
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PROTOCOL_VERSION
from opentelemetry.semconv.attributes.url_attributes import URL_SCHEME
from opentelemetry.semconv.metrics.db_metrics import DB_CLIENT_OPERATION_DURATION
from opentelemetry.semconv.metrics.http_metrics import HTTP_SERVER_REQUEST_DURATION
from opentelemetry.semconv.schemas import Schemas
from starlette.types import Scope

from projkit.http import scope_keys
from projkit.http.timing import UNKNOWN_ROUTE
from projkit.request_stats import StatementInfo
from projkit.telemetry.buckets import EXPORTED_BOUNDS
from projkit.telemetry.otel.attributes import Attributes, method_of
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.series import SCALARS, Scalar
from projkit.telemetry.snapshot import KitInfo, process_snapshot

# A provider, or a function that is called for it when the kit starts.
MeterProviderOrFactory: TypeAlias = MeterProvider | Callable[[], MeterProvider]

_PREFIX: Final = "projkit_"
# OpenTelemetry's own instrumentation of processes reports these in more detail.
_NOT_EXPORTED: Final = ("projkit_process_", "projkit_workers", "projkit_build_info", "projkit_otel_")
_DB_BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)  # advised by the conventions
_SYSTEM: Final = db.DB_SYSTEM_NAME


class OtelInstruments:
    """The instruments of one kit; created by the first :meth:`open` that finds a provider."""

    def __init__(
        self,
        provider: MeterProviderOrFactory | None,
        recorder: Recorder,
        info: KitInfo,
    ) -> None:
        self._host_provider = provider
        self._recorder = recorder
        self._info = info
        self._system = ""

    def host_provider(self) -> MeterProvider | None:
        """Return the provider that the host passed in, if any."""
        if self._host_provider is not None and not isinstance(self._host_provider, MeterProvider):
            self._host_provider = self._host_provider()
        return self._host_provider

    def open(self, system: str) -> None:
        """Create the instruments if there is a provider; ``system`` is the database's ``db.system.name``."""
        self._system = system
        if self._recorder.meters is not None:
            return
        provider = self.host_provider() or metrics.get_meter_provider()
        # The API's own providers: the proxy before any is set, which has no public name, and the no-op one.
        if isinstance(provider, NoOpMeterProvider) or type(provider).__module__.startswith(
            "opentelemetry.metrics"
        ):
            return
        meter = provider.get_meter("projkit", self._info.version, schema_url=Schemas.V1_33_0.value)
        self._request_duration = meter.create_histogram(
            HTTP_SERVER_REQUEST_DURATION,
            "s",
            "Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=EXPORTED_BOUNDS,
        )
        self._operation_duration = meter.create_histogram(
            DB_CLIENT_OPERATION_DURATION,
            "s",
            "Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_DB_BOUNDS,
        )
        for scalar in SCALARS:
            if scalar.name.startswith(_NOT_EXPORTED):
                continue
            name = scalar.name.removeprefix(_PREFIX).replace("_", ".")
            create: Any = (
                meter.create_observable_counter if scalar.kind == "counter" else meter.create_observable_gauge
            )
            create(f"projkit.{name}", [self._callback(scalar)], description=scalar.description)
        self._recorder.meters = self

    def record_request(self, scope: Scope, route: str, status: int, seconds: float) -> None:
        """Record a response to a request that no instrumentation around the kit records."""
        attributes: Attributes = {
            http.HTTP_REQUEST_METHOD: method_of(scope),
            URL_SCHEME: scope.get("scheme", "http"),
            http.HTTP_RESPONSE_STATUS_CODE: status,
            NETWORK_PROTOCOL_VERSION: scope.get("http_version", "1.1"),
        }
        if route != UNKNOWN_ROUTE:
            attributes[http.HTTP_ROUTE] = route
        if status >= 500:
            attributes[ERROR_TYPE] = scope.get(scope_keys.ERROR_TYPE, str(status))
        self._request_duration.record(seconds, attributes)

    def record_statement(self, statement: StatementInfo, seconds: float, error: BaseException | None) -> None:
        """Record a database statement that has ended."""
        attributes: Attributes = {_SYSTEM: self._system, db.DB_OPERATION_NAME: statement.operation}
        if statement.collection:
            attributes[db.DB_COLLECTION_NAME] = statement.collection
        self._record_operation(attributes, seconds, error)

    def record_command(self, operation: str, seconds: float, error: BaseException | None) -> None:
        """Record a Redis command that has ended."""
        self._record_operation({_SYSTEM: "redis", db.DB_OPERATION_NAME: operation}, seconds, error)

    def _record_operation(self, attributes: Attributes, seconds: float, error: BaseException | None) -> None:
        if error is not None:
            attributes[ERROR_TYPE] = type(error).__name__
        self._operation_duration.record(seconds, attributes)

    def _callback(self, scalar: Scalar) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            snapshot = process_snapshot(self._recorder, self._info)
            for labels, value in scalar.values(snapshot):
                yield Observation(float(value), dict(zip(scalar.labels, labels, strict=True)))

        return observe
