"""Puts a kit's telemetry together: what counts, what traces, and how both are read."""

from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from projkit.http.client import ClientAddresses
from projkit.http.host_timing import HostTimingMiddleware, RouteOf
from projkit.http.timing import RequestIds
from projkit.settings import Settings
from projkit.telemetry.collector import RecorderCollector
from projkit.telemetry.exposition import KitRegistry
from projkit.telemetry.otel.client_spans import dependencies_of
from projkit.telemetry.otel.instrumented import instrument
from projkit.telemetry.otel.instruments import MeterProviderOrFactory, OtelInstruments
from projkit.telemetry.otel.mounts import Mounts
from projkit.telemetry.otel.tracing import RequestTracing, TracerProviderOrFactory
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.routes import MetricsApp
from projkit.telemetry.snapshot import KitInfo

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from projkit.redis.connect import RedisClient


class Telemetry:
    """One kit's.

    Attributes:
        recorder: counts.
        registry: what Prometheus scrapes; a host may register metrics of its own.
        metrics_app: the scrape as an app, without a question.
        tracing: begins the traces of requests.
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
        mounts = Mounts()
        self.tracing = RequestTracing(tracer_provider, version=version, addresses=addresses, mounts=mounts)
        self.request_ids = RequestIds()
        self._instruments = OtelInstruments(meter_provider, self.recorder, info, mounts)
        self._settings = settings
        self._addresses = addresses

    def open(
        self, engine: "AsyncEngine | None", redis: "RedisClient | None", dialect: str, *, calls_host: bool
    ) -> None:
        """Says what the kit is about to ask: a host's ``engine`` or its own, and whose functions."""
        dependencies = dependencies_of(self._settings, engine, redis)
        self.tracing.configure(dependencies, calls_host=calls_host or engine is not None)
        self._instruments.open(dialect)

    def around(self, host: ASGIApp, route_of: RouteOf, *, performance: bool, instrumented: bool) -> ASGIApp:
        """A host whose requests are timed and counted, and traced by OpenTelemetry's own instrumentation.

        Raises:
            ConfigurationError: that is not installed.
        """
        if performance:
            host = HostTimingMiddleware(host, self.recorder, route_of, self.tracing, self.request_ids)
        if not instrumented:
            return host
        return instrument(
            host, route_of, self._addresses, self.tracing.host_provider(), self._instruments.host_provider()
        )
