"""Probes: is the process alive, should it be sent requests, and what is the matter.

Nothing here waits for a dependency: all answers come from what a background task has seen.
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
from projkit.http.routing import JSON, Admits, Answer, Endpoint, Handler, Instant
from projkit.identity import Principal

Shown = Literal["always", "authorized", "never"]
# Requests, errors, error_rate, p50_ms, p95_ms, p99_ms.
Traffic = Callable[[], dict[str, Any]]

# Whoever shows credentials that need a store which does not answer is told as little as anybody.
_PERMISSION_SECONDS: Final = 0.5
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
    """The handlers.

    Args:
        scheduler: returns the scheduler of the running event loop; None if the kit is not running.
        is_draining: returns whether readiness is refused.
        shown: who gets more than the status.
        admits: lets in without credentials, where they are asked for.
        authenticate: who asks.
        traffic: what was answered of late, if anybody counts it.
    """

    def __init__(
        self,
        health: Health,
        shown: Shown,
        *,
        version: str,
        scheduler: Callable[[], CheckScheduler | None],
        is_draining: Callable[[], bool],
        admits: Admits,
        authenticate: Callable[[Request], Awaitable[Principal]],
        traffic: Traffic | None = None,
    ) -> None:
        self._health = health
        self._shown = shown
        self._version = version
        self._scheduler = scheduler
        self._is_draining = is_draining
        self._admits = admits
        self._authenticate = authenticate
        self._traffic = traffic

    def endpoints(self, prefix: str, *, root_paths: bool) -> list[Endpoint]:
        """The four endpoints; with ``root_paths`` the probes also where Kubernetes' own programs have them."""
        found = [
            Endpoint(
                method="GET",
                path=f"{prefix}/health",
                handler=_at_once(self.summary),
                operation_id="getHealth",
                summary="How does it stand?",
                tag="health",
                answers={
                    200: Answer("It can be used.", HealthSummary),
                    503: Answer(
                        "A critical check fails, or it starts or drains.",
                        HealthSummary,
                        headers=("Retry-After",),
                    ),
                },
                public=True,
                standalone=True,
                instant=self.summary,
            ),
            *self._probes(f"{prefix}/health/live", f"{prefix}/health/ready", "Liveness", "Readiness"),
            Endpoint(
                method="GET",
                path=f"{prefix}/health/detailed",
                handler=self.detailed,
                operation_id="getDetailedHealth",
                summary="What is the matter?",
                tag="health",
                answers={
                    200: _both("It can be used."),
                    503: _both("A critical check fails, or it starts or drains.", "Retry-After"),
                },
                public=True,
                standalone=True,
                description="Who may not see the details (setting `HEALTH_DETAILS`) gets `status` alone.",
            ),
        ]
        if root_paths:
            found += self._probes("/livez", "/readyz", "Livez", "Readyz")
        return found

    def summary(self) -> PreparedResponse:
        """``/health``."""
        scheduler, status = self._now()
        database = None if scheduler is None else scheduler.check_status("database")
        redis = None if scheduler is None else scheduler.check_status("redis")
        return _summary(
            status, _connection(database), _connection(redis) if self._health.uses_redis else "not_configured"
        )

    def live(self) -> PreparedResponse:
        """``/health/live``: looks at nothing."""
        return _PROBES["ok"]

    def ready(self) -> PreparedResponse:
        """``/health/ready``."""
        return _PROBES[self._now()[1]]

    async def detailed(self, request: Request) -> Response:
        """``/health/detailed``."""
        scheduler, status = self._now()
        accept = request.header(b"accept") or ""
        wanted = quality(accept, HEALTH_JSON)
        as_health_json = HEALTH_JSON in accept.lower() and wanted > 0 and wanted >= quality(accept, JSON)
        content_type = (b"content-type", HEALTH_JSON.encode()) if as_health_json else JSON_TYPE
        if not await self._shows(request):
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
        known: dict[str, Any] = {
            "version": self._version, "uptime_seconds": self._health.uptime_seconds, "system": system,
        }  # fmt: skip
        if as_health_json:
            return _response(
                status, representations.health_json(status, checks, **known), content_type, _VARY
            )
        state = "starting" if scheduler is None else "draining" if self._is_draining() else "ready"
        traffic = None if self._traffic is None else self._traffic()
        body = representations.detailed(status, state, checks, traffic=traffic, **known)
        return _response(status, body, content_type, _VARY)

    def _now(self) -> tuple[CheckScheduler | None, Status]:
        scheduler = self._scheduler()
        if scheduler is None or self._is_draining():
            return scheduler, "error"
        return scheduler, scheduler.status()

    async def _shows(self, request: Request) -> bool:
        if self._shown != "authorized" or self._admits(request):
            return self._shown != "never"
        try:
            async with asyncio.timeout(_PERMISSION_SECONDS):
                return (await self._authenticate(request)).allows(_SCOPE)
        except (ProjkitError, TimeoutError):
            return False

    def _probes(self, live: str, ready: str, live_name: str, ready_name: str) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path=live,
                handler=_at_once(self.live),
                operation_id=f"get{live_name}",
                summary="Is the process alive?",
                tag="health",
                answers={200: Answer("It is.", Probe)},
                public=True,
                standalone=True,
                instant=self.live,
            ),
            Endpoint(
                method="GET",
                path=ready,
                handler=_at_once(self.ready),
                operation_id=f"get{ready_name}",
                summary="Should it be sent requests?",
                tag="health",
                answers={
                    200: Answer("It should.", Probe),
                    503: Answer(
                        "A critical check fails, or it starts or drains.", Probe, headers=("Retry-After",)
                    ),
                },
                public=True,
                standalone=True,
                instant=self.ready,
            ),
        ]


@lru_cache
def _summary(status: Status, database: str, redis: str) -> PreparedResponse:
    return _response(status, {"status": status, "redis_connection": redis, "database_connection": database})


def _at_once(instant: Instant) -> Handler:
    """The usual way to the same answer."""

    async def handler(_: Request) -> Response:
        return instant()

    return handler


def _connection(status: CheckStatus | None) -> str:
    return "ok" if status == "ok" else "error"


def _both(description: str, *headers: str) -> Answer:
    return Answer(description, DetailedHealth, headers=("Vary", *headers), others={HEALTH_JSON: HealthJson})
