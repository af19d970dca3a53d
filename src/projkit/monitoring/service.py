"""What a kit shows of itself, put together."""

import asyncio
from collections.abc import Callable
from typing import Any

from projkit.db.port import Database
from projkit.http import scope_keys
from projkit.http.request import Request
from projkit.http.routing import Admits, Endpoint
from projkit.monitoring import routes
from projkit.monitoring.database import DatabaseReport
from projkit.monitoring.performance import PerformanceReport
from projkit.monitoring.system import SystemInfo, framework_of, system_info
from projkit.settings import Settings
from projkit.telemetry.history import History, Sampler
from projkit.telemetry.recorder import Recorder


class Monitoring:
    """The figures of one kit.

    Args:
        database: the one of this event loop; None where the kit has not started.
        given: what the host has brought itself: ``engine``, ``redis``, ``authenticate``, ``get_principal``.
    """

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        *,
        version: str,
        database: Callable[[], Database | None],
        given: frozenset[str],
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._version = version
        self._given = given
        self._history = History(recorder)
        self._database = DatabaseReport(recorder, database)
        self._performance = PerformanceReport(recorder, self._history)
        self._host_framework: str | None = None

    def endpoints(self, admits: Admits) -> list[Endpoint]:
        """The endpoints that show figures."""
        return routes.endpoints(
            self._settings.api_prefix, admits, self._performance, self._database, self._system_info
        )

    def sample(self, database: Database) -> Sampler:
        """Samples in the background of this event loop, until it is closed."""
        return Sampler(self._history, lambda: self._recorder.record_pool_connections(database.connections()))

    def traffic(self) -> dict[str, Any]:
        """The requests of the last minutes in short."""
        return self._performance.traffic()

    def host_is(self, app: object) -> None:
        """Notes the framework of the application that the kit is part of."""
        self._host_framework = framework_of(app) or self._host_framework

    def _system_info(self, request: Request) -> SystemInfo:
        settings, given = self._settings, self._given
        enabled: dict[str, bool | str] = {
            "database": "engine of the host" if "engine" in given else settings.dialect,
            "database_mode": settings.database_mode,
            "redis": settings.redis_url is not None or "redis" in given,
            "sessions": settings.session_backend,
            "celery": settings.celery_broker_url is not None or "celery_app" in given,
            "oidc": bool(settings.oidc_providers),
            "resource_server": bool(settings.oidc_resource_issuer),
            "legacy_tokens": bool(settings.legacy_secret),
            "row_level_security": settings.row_level_security,
            "registration": settings.registration == "open",
            "host_users": "authenticate" in given,
            "host_principals": "get_principal" in given,
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
