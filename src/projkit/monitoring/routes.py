"""The endpoints of the monitoring reports."""

from collections.abc import Callable
from typing import Final

from pydantic import BaseModel

from projkit.http.request import Request
from projkit.http.response import JSON_TYPE, NO_STORE, Response
from projkit.http.routing import AllowsAnonymous, Endpoint, Handler, ResponseSpec
from projkit.monitoring.database import DatabaseMetrics, DatabaseReport
from projkit.monitoring.performance import Performance, PerformanceReport
from projkit.monitoring.system import SystemInfo

MONITORING_SCOPE: Final = "monitoring:read"


def endpoints(
    prefix: str,
    allows_anonymous: AllowsAnonymous,
    performance: PerformanceReport,
    database: DatabaseReport,
    system: Callable[[Request], SystemInfo],
) -> list[Endpoint]:
    """Declare ``metrics/performance``, ``metrics/database`` and ``system/info``.

    They respond even if the kit cannot start.

    Args:
        prefix: the prefix of the API.
        allows_anonymous: decides which requests need no credentials; others need the scope ``monitoring:read``.
        performance: the report on requests.
        database: the report on the database.
        system: creates the report on the environment.
    """

    async def get_performance(_: Request) -> Response:
        return _json(await performance.full())

    async def get_database(_: Request) -> Response:
        return _json(await database.full())

    async def get_system(request: Request) -> Response:
        return _json(system(request))

    def endpoint(
        path: str, handler: Handler, operation_id: str, summary: str, schema: type[BaseModel]
    ) -> Endpoint:
        return Endpoint(
            method="GET",
            path=f"{prefix}/monitoring/{path}",
            handler=handler,
            operation_id=operation_id,
            summary=summary,
            tag="monitoring",
            responses={200: ResponseSpec("The current values.", schema)},
            scope=MONITORING_SCOPE,
            allows_anonymous=allows_anonymous,
            standalone=True,
        )

    return [
        endpoint(
            "metrics/performance",
            get_performance,
            "getPerformance",
            "Get request counts and latencies",
            Performance,
        ),
        endpoint(
            "metrics/database",
            get_database,
            "getDatabaseMetrics",
            "Get database metrics",
            DatabaseMetrics,
        ),
        endpoint("system/info", get_system, "getSystemInfo", "Get system information", SystemInfo),
    ]


def _json(content: BaseModel) -> Response:
    return Response(200, content.model_dump_json().encode(), (JSON_TYPE, NO_STORE))
