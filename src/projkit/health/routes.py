"""The health endpoints: liveness, readiness, summary and details.

None of them waits for a dependency: each reports the latest results of the checks that run in the background.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal

import orjson

from projkit.errors import ProjkitError
from projkit.health import representations
from projkit.health.check_scheduler import CheckScheduler, CheckState
from projkit.health.checks import CheckStatus, Status
from projkit.health.schemas import HEALTH_JSON, DetailedHealth, HealthJson, HealthSummary, Probe
from projkit.health.service import Health
from projkit.http.negotiation import quality
from projkit.http.request import Request
from projkit.http.response import JSON_TYPE, NO_STORE, Header, PreparedResponse, Response
from projkit.http.routing import JSON, AllowsAnonymous, Endpoint, Handler, PreparedHandler, ResponseSpec
from projkit.identity import Principal

Details = Literal["always", "authorized", "never"]
# Returns requests, errors, error_rate, p50_ms, p95_ms and p99_ms.
Traffic = Callable[[], dict[str, Any]]

# If the credentials cannot be checked in this time, because a store is unavailable, the response has the status alone.
_AUTHENTICATION_SECONDS: Final = 0.5
_USABLE: Final = "The service is usable; `status` is `degraded` if a non-critical check fails."
_NOT_USABLE: Final = "A critical check fails, or the service is starting or draining."
_SCOPE: Final = "monitoring:read"
_RETRY: Final[Header] = (b"retry-after", b"1")
_VARY: Final[Header] = (b"vary", b"Accept, Authorization, Cookie")
_CODES: Final[Mapping[Status, int]] = {"ok": 200, "degraded": 200, "error": 503}


def _response(status: Status, body: object, *more: Header) -> PreparedResponse:
    failing: tuple[Header, ...] = (_RETRY,) if status == "error" else ()
    return PreparedResponse(_CODES[status], orjson.dumps(body), (*(more or (JSON_TYPE,)), NO_STORE, *failing))


_PROBES: Final[Mapping[Status, PreparedResponse]] = {
    "ok": _response("ok", {"status": "ok"}),
    "degraded": _response("degraded", {"status": "degraded"}),
    "error": _response("error", {"status": "error"}),
}


class HealthRoutes:
    """The handlers of the health endpoints.

    Args:
        health: the checks of the kit.
        details: the callers that get more than the status.
        version: the version of the package.
        scheduler: returns the scheduler of this event loop; None before the kit has started.
        is_draining: returns whether the kit is draining.
        allows_anonymous: returns whether a request is allowed without credentials.
        authenticate: returns the caller.
        traffic: returns the recent requests, errors and latencies, if they are recorded.
    """

    def __init__(
        self,
        health: Health,
        details: Details,
        *,
        version: str,
        scheduler: Callable[[], CheckScheduler | None],
        is_draining: Callable[[], bool],
        allows_anonymous: AllowsAnonymous,
        authenticate: Callable[[Request], Awaitable[Principal]],
        traffic: Traffic | None = None,
    ) -> None:
        self._health = health
        self._details = details
        self._version = version
        self._scheduler = scheduler
        self._is_draining = is_draining
        self._allows_anonymous = allows_anonymous
        self._authenticate = authenticate
        self._traffic = traffic

    def endpoints(self, prefix: str, *, root_paths: bool) -> list[Endpoint]:
        """Return the endpoints; ``root_paths`` adds the probes at ``/livez`` and ``/readyz``."""
        endpoints = [
            Endpoint(
                method="GET",
                path=f"{prefix}/health",
                handler=_as_handler(self.summary),
                operation_id="getHealth",
                summary="Get the health summary",
                tag="health",
                responses={
                    200: ResponseSpec(_USABLE, HealthSummary),
                    503: ResponseSpec(_NOT_USABLE, HealthSummary, headers=("Retry-After",)),
                },
                public=True,
                standalone=True,
                prepared=self.summary,
            ),
            *self._probes(f"{prefix}/health/live", f"{prefix}/health/ready", "Liveness", "Readiness"),
            Endpoint(
                method="GET",
                path=f"{prefix}/health/detailed",
                handler=self.detailed,
                operation_id="getDetailedHealth",
                summary="Get the detailed health",
                tag="health",
                responses={
                    200: _detailed_response(_USABLE),
                    503: _detailed_response(_NOT_USABLE, "Retry-After"),
                },
                public=True,
                standalone=True,
                description="Callers without permission (setting `HEALTH_DETAILS`) get only `status`.",
            ),
        ]
        if root_paths:
            endpoints += self._probes("/livez", "/readyz", "Livez", "Readyz")
        return endpoints

    def summary(self) -> PreparedResponse:
        """Handle ``GET /health``."""
        scheduler, status = self._current_status()
        database = None if scheduler is None else scheduler.check_status("database")
        redis = None if scheduler is None else scheduler.check_status("redis")
        return _summary(
            status, _connection(database), _connection(redis) if self._health.uses_redis else "not_configured"
        )

    def live(self) -> PreparedResponse:
        """Handle ``GET /health/live``, which checks nothing."""
        return _PROBES["ok"]

    def ready(self) -> PreparedResponse:
        """Handle ``GET /health/ready``."""
        scheduler = self._scheduler()
        if scheduler is None or self._is_draining():
            return _PROBES["error"]
        return _PROBES[scheduler.status()]

    async def detailed(self, request: Request) -> Response:
        """Handle ``GET /health/detailed``."""
        scheduler, status = self._current_status()
        accept = request.header(b"accept") or ""
        wanted = quality(accept, HEALTH_JSON)
        as_health_json = HEALTH_JSON in accept.lower() and wanted > 0 and wanted >= quality(accept, JSON)
        content_type = (b"content-type", HEALTH_JSON.encode()) if as_health_json else JSON_TYPE
        if not await self._shows_details(request):
            body = representations.health_json_status(status) if as_health_json else {"status": status}
            return _response(status, body, content_type, _VARY)
        checks: list[CheckState]
        if scheduler is None:
            checks, system = self._health.snapshot_before_start(), {}
        else:
            checks = scheduler.snapshot()
            system = representations.system_of(
                checks, scheduler.sampler.latest, scheduler.sampler.lag_seconds
            )
        common: dict[str, Any] = {
            "version": self._version,
            "uptime_seconds": self._health.uptime_seconds,
            "system": system,
        }
        if as_health_json:
            return _response(
                status, representations.health_json(status, checks, **common), content_type, _VARY
            )
        state = "starting" if scheduler is None else "draining" if self._is_draining() else "ready"
        traffic = None if self._traffic is None else self._traffic()
        body = representations.detailed_health(status, state, checks, traffic=traffic, **common)
        return _response(status, body, content_type, _VARY)

    def _current_status(self) -> tuple[CheckScheduler | None, Status]:
        scheduler = self._scheduler()
        if scheduler is None or self._is_draining():
            return scheduler, "error"
        return scheduler, scheduler.status()

    async def _shows_details(self, request: Request) -> bool:
        if self._details != "authorized" or self._allows_anonymous(request):
            return self._details != "never"
        try:
            async with asyncio.timeout(_AUTHENTICATION_SECONDS):
                return (await self._authenticate(request)).allows(_SCOPE)
        except (ProjkitError, TimeoutError):
            return False

    def _probes(self, live: str, ready: str, live_name: str, ready_name: str) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path=live,
                handler=_as_handler(self.live),
                operation_id=f"get{live_name}",
                summary="Check liveness",
                tag="health",
                responses={200: ResponseSpec("The process is alive.", Probe)},
                public=True,
                standalone=True,
                prepared=self.live,
            ),
            Endpoint(
                method="GET",
                path=ready,
                handler=_as_handler(self.ready),
                operation_id=f"get{ready_name}",
                summary="Check readiness",
                tag="health",
                responses={
                    200: ResponseSpec("The service accepts requests.", Probe),
                    503: ResponseSpec(_NOT_USABLE, Probe, headers=("Retry-After",)),
                },
                public=True,
                standalone=True,
                prepared=self.ready,
            ),
        ]


@lru_cache
def _summary(status: Status, database: str, redis: str) -> PreparedResponse:
    return _response(status, {"status": status, "redis_connection": redis, "database_connection": database})


def _as_handler(prepared: PreparedHandler) -> Handler:
    """Wrap a prepared handler for the normal path."""

    async def handler(_: Request) -> Response:
        return prepared()

    return handler


def _connection(status: CheckStatus | None) -> str:
    return "ok" if status == "ok" else "error"


def _detailed_response(description: str, *headers: str) -> ResponseSpec:
    return ResponseSpec(
        description, DetailedHealth, headers=("Vary", *headers), alternatives={HEALTH_JSON: HealthJson}
    )
