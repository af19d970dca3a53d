"""Construction of a kit's telemetry: metrics, traces, and their exposition."""

from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from projkit.http.client import ClientAddresses
from projkit.http.host_timing import HostTimingMiddleware, RouteOf
from projkit.http.mounts import MountedRoutes
from projkit.http.timing import RequestIds
from projkit.settings import Settings
from projkit.telemetry.collector import RecorderCollector
from projkit.telemetry.exposition import KitRegistry
from projkit.telemetry.otel.client_spans import dependencies_of
from projkit.telemetry.otel.instrumented import instrument
from projkit.telemetry.otel.instruments import MeterProviderOrFactory, OtelInstruments
from projkit.telemetry.otel.request_tracing import RequestTracing, TracerProviderOrFactory
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.routes import MetricsApp
from projkit.telemetry.snapshot import KitInfo

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from projkit.redis.connect import RedisClient


class Telemetry:
    """The telemetry of one kit.

    Attributes:
        recorder: the observer that counts all events.
        registry: the Prometheus registry; a host may register metrics of its own in it.
        metrics_app: an ASGI app that responds with the metrics, without authentication.
        tracing: the tracing of requests.
        mounted: the full routes of the kit's requests, which metrics, traces and logs share.
        request_ids: the source of request ids, for the kit's own requests and the host's.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        version: str,
        addresses: ClientAddresses,
        tracer_provider: TracerProviderOrFactory | None,
        meter_provider: MeterProviderOrFactory | None,
    ) -> None:
        self.recorder = Recorder(settings.metrics_directory, slow_seconds=settings.slow_request_seconds)
        info = KitInfo(version, settings.legacy_sunset)
        self.registry = KitRegistry(RecorderCollector(self.recorder, info))
        self.metrics_app = MetricsApp(self.registry)
        self.mounted = MountedRoutes()
        self.recorder.route_kinds = self.mounted.kinds_by_route
        self.tracing = RequestTracing(tracer_provider, version=version, addresses=addresses)
        self.request_ids = RequestIds()
        self._instruments = OtelInstruments(meter_provider, self.recorder, info)
        self._settings = settings
        self._addresses = addresses

    def open(
        self, engine: "AsyncEngine | None", redis: "RedisClient | None", dialect: str, *, calls_host: bool
    ) -> None:
        """Start telemetry with what the kit uses: a host's ``engine``, Redis, functions of the host."""
        dependencies = dependencies_of(self._settings, engine, redis)
        self.tracing.configure(dependencies, calls_host=calls_host or engine is not None)
        self._instruments.open(dialect)

    def wrap_host(
        self, host: ASGIApp, route_of: RouteOf, *, performance: bool, instrumented: bool
    ) -> ASGIApp:
        """Wrap a host so that its requests are timed and counted, and traced by OpenTelemetry's ASGI instrumentation.

        Raises:
            ConfigurationError: the instrumentation is not installed.
        """
        if performance:
            host = HostTimingMiddleware(host, self.recorder, route_of, self.tracing, self.request_ids)
        if not instrumented:
            return host
        return instrument(
            host, route_of, self._addresses, self.tracing.host_provider(), self._instruments.host_provider()
        )
