"""The monitoring endpoints that show figures."""

from collections.abc import Callable
from typing import Final

from pydantic import BaseModel

from projkit.http.request import Request
from projkit.http.response import JSON_TYPE, NO_STORE, Response
from projkit.http.routing import Admits, Answer, Endpoint, Handler
from projkit.monitoring.database import DatabaseMetrics, DatabaseReport
from projkit.monitoring.performance import Performance, PerformanceReport
from projkit.monitoring.system import SystemInfo

MONITORING_SCOPE: Final = "monitoring:read"


def endpoints(
    prefix: str,
    admits: Admits,
    performance: PerformanceReport,
    database: DatabaseReport,
    system: Callable[[Request], SystemInfo],
) -> list[Endpoint]:
    """``metrics/performance``, ``metrics/database`` and ``system/info``.

    For the scope ``monitoring:read`` or whom ``admits`` lets in; they answer also while the kit cannot start.
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
            answers={200: Answer("As it is now.", schema)},
            scope=MONITORING_SCOPE,
            admits=admits,
            standalone=True,
        )

    return [
        endpoint(
            "metrics/performance", get_performance, "getPerformance", "Requests and latencies", Performance
        ),
        endpoint(
            "metrics/database",
            get_database,
            "getDatabaseMetrics",
            "Pool, statements, server",
            DatabaseMetrics,
        ),
        endpoint("system/info", get_system, "getSystemInfo", "What runs here", SystemInfo),
    ]


def _json(content: BaseModel) -> Response:
    return Response(200, content.model_dump_json().encode(), (JSON_TYPE, NO_STORE))
