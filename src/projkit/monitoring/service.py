"""The monitoring reports of a kit."""

import asyncio
from collections.abc import Callable
from typing import Any

from projkit.db.port import Database
from projkit.db.table_names import TableNames
from projkit.http import scope_keys
from projkit.http.request import Request
from projkit.http.routing import AllowsAnonymous, Endpoint
from projkit.monitoring import routes
from projkit.monitoring.database import DatabaseReport
from projkit.monitoring.performance import PerformanceReport
from projkit.monitoring.system import SystemInfo, framework_of, system_info
from projkit.settings import Settings
from projkit.telemetry.history import History, Sampler
from projkit.telemetry.recorder import Recorder


class Monitoring:
    """The performance, database and system reports of one kit.

    Args:
        settings: the kit's settings.
        recorder: the kit's metrics.
        version: the kit's version.
        database: returns the connection pool of the running event loop; None if the kit is not running.
        host_resources: the names of the arguments of ``ProjKit`` that the host has passed.
    """

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        *,
        version: str,
        database: Callable[[], Database | None],
        host_resources: frozenset[str],
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._version = version
        self._host_resources = host_resources
        self.history = History(recorder)
        self._database = DatabaseReport(recorder, database, TableNames.of(settings))
        self.performance = PerformanceReport(recorder, self.history)
        self._host_framework: str | None = None

    def endpoints(self, allows_anonymous: AllowsAnonymous) -> list[Endpoint]:
        """Declare the endpoints of the reports."""
        return routes.endpoints(
            self._settings.api_prefix, allows_anonymous, self.performance, self._database, self._system_info
        )

    def sample(self, database: Database) -> Sampler:
        """Sample the metrics on the running event loop until the returned sampler is closed."""

        def record_pool() -> None:
            self._recorder.record_pool_connections(database.connections())

        return Sampler(self.history, record_pool)

    def traffic(self) -> dict[str, Any]:
        """Return a summary of recent requests."""
        return self.performance.traffic()

    def detect_framework(self, app: object) -> None:
        """Record the framework of the host application, for the system report."""
        self._host_framework = framework_of(app) or self._host_framework

    def _system_info(self, request: Request) -> SystemInfo:
        settings, host_resources = self._settings, self._host_resources
        has_redis = settings.redis_url is not None or "redis" in host_resources
        enabled: dict[str, bool | str] = {
            "database": "engine of the host" if "engine" in host_resources else settings.dialect,
            "database_mode": settings.database_mode,
            "redis": has_redis,
            "sessions": settings.session_store or ("redis" if has_redis else "database"),
            "celery": settings.celery_broker_url is not None or "celery_app" in host_resources,
            "oidc": bool(settings.oidc_providers),
            "resource_server": bool(settings.oidc_resource_issuer),
            "legacy_tokens": bool(settings.legacy_secret),
            "row_level_security": settings.row_level_security,
            "registration": settings.registration == "open",
            "host_users": "authenticate" in host_resources,
            "host_principals": "get_principal" in host_resources,
            "multiple_workers": self._recorder.directory is not None,
        }
        loop = type(asyncio.get_running_loop())
        return system_info(
            settings,
            self._recorder,
            version=self._version,
            host_framework=framework_of(request.scope.get(scope_keys.APP)) or self._host_framework,
            event_loop=f"{loop.__module__}.{loop.__qualname__}",
            enabled=enabled,
        )
