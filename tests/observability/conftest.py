"""The deployment under test: a server with two workers, a host application, and their monitoring.

The server uses PostgreSQL and Redis; the monitoring is Prometheus, Alertmanager and a trace collector.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from projkit import ProjKit
from tests.auth.forge import LEGACY_SECRET, legacy
from tests.conftest import serving, settings_for, without_settings
from tests.faults.conftest import Server, serve
from tests.faults.fault_scenario import PASSWORD, add_users, bearer
from tests.faults.proxy import Proxy
from tests.observability.load import PROJECTS, Load, client_of, disconnect_early
from tests.observability.monitoring_stack import (
    METRICS_TOKEN,
    Prometheus,
    Receiver,
    alertmanager,
    prometheus,
    receiver,
    wait_until,
)
from tests.redis_servers import Redises
from tests.services import Postgres, database_url, postgres_server_url
from tests.telemetry.otlp import Collector


@dataclass
class Deployment:
    """The running services and the load they have received."""

    prometheus: Prometheus
    receiver: Receiver
    server: Server
    database: Proxy
    load: Load
    collector: Collector

    @property
    def instance(self) -> str:
        """Prometheus' label of the server with two workers."""
        return urlsplit(self.server.url).netloc


@pytest.fixture(scope="session")
def deployment(
    postgres: Postgres, redis_alone: Redises, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The deployment, after some load that Prometheus has scraped."""
    directory = tmp_path_factory.mktemp("observability")
    with ExitStack() as stack, without_settings():
        name = postgres.create(migrated=True)
        stack.callback(postgres.drop, name)
        proxy = stack.enter_context(in_a_thread(Proxy(urlsplit(postgres_server_url()).port or 5432)))
        parts = urlsplit(database_url(name))
        url = parts._replace(netloc=f"{parts.netloc.partition('@')[0]}@127.0.0.1:{proxy.port}").geturl()
        asyncio.run(add_users(settings_for(url), PASSWORD, "alice"))
        sunset = datetime.now(UTC) + timedelta(days=7)
        collector = stack.enter_context(Collector())
        server = stack.enter_context(
            serve(
                url, arguments=("--workers", "2"), PROJKIT_METRICS_TOKEN=METRICS_TOKEN,
                PROJKIT_REDIS_URL=redis_alone.url, PROJKIT_LEGACY_SECRET=LEGACY_SECRET,
                PROJKIT_LEGACY_SUNSET=sunset.isoformat(), PROJKIT_LOGIN_LIMIT_ADDRESS="10000/minute",
                PROJKIT_LOGIN_LIMIT_ACCOUNT="10000/minute",
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_BSP_SCHEDULE_DELAY="200",
            )
        )  # fmt: skip
        host = stack.enter_context(serving(host_app(directory)))
        alerts, webhook = stack.enter_context(receiver())
        address = stack.enter_context(alertmanager(directory, webhook))
        targets = [urlsplit(each).netloc for each in (server.url, host)]
        monitoring = stack.enter_context(prometheus(directory, targets, address))
        load = Load(stack.enter_context(client_of(server.url)))
        deployment = Deployment(monitoring, alerts, server, proxy, load, collector)
        # In rounds with scrapes between them, since counts from before the first scrape have no rate.
        for _ in range(2):
            monitoring.catch_up()
            deployment.load.round()
            send_host_requests(host)
        stop_redis(deployment, redis_alone)
        # The cleanup measures its backlog some seconds after the start.
        backlog = "projkit_cleanup_backlog_seconds"
        wait_until(lambda: monitoring.query(backlog), lambda: f"{backlog} does not exist")
        monitoring.catch_up()
        yield deployment


def stop_redis(deployment: Deployment, servers: Redises) -> None:
    """Stop Redis, so that the kit cannot tell whether a session has ended."""
    session = bearer(deployment.load.log_in()["access_token"])
    servers.masters[0].signal(signal.SIGSTOP)
    try:
        deployment.load.request("GET", PROJECTS, 503, headers=session)
    finally:
        servers.masters[0].signal(signal.SIGCONT)


async def broken(_: Request) -> Response:
    raise ZeroDivisionError


async def slow(request: Request) -> Response:
    for _ in range(6):
        await asyncio.sleep(0.1)
        if await request.is_disconnected():
            break
    return PlainTextResponse("late")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


def host_app(directory: Path) -> Any:
    """Return a host with a kit around it, which has a failing route and a slow one."""
    url = f"sqlite:///{directory / 'host.db'}"
    after_sunset = {"legacy_secret": LEGACY_SECRET, "legacy_sunset": datetime.now(UTC) - timedelta(days=1)}
    kit = ProjKit(settings_for(url, metrics_token=METRICS_TOKEN, slow_request_seconds=0.2, **after_sunset))
    routes = [Route("/broken", broken), Route("/slow", slow), WebSocketRoute("/socket", socket)]
    return kit.wrap(Starlette(routes=routes))


def send_host_requests(url: str) -> None:
    """Request each route of the host, and the kit with a legacy token, which has expired there."""
    assert httpx2.get(f"{url}/broken").status_code == 500
    assert httpx2.get(f"{url}/slow").status_code == 200
    disconnect_early(url, "/slow")
    assert httpx2.get(f"{url}{PROJECTS}", headers=bearer(legacy())).status_code == 401
    with connect(f"{url.replace('http', 'ws')}/socket"):
        pass


@contextmanager
def in_a_thread(proxy: Proxy) -> Iterator[Proxy]:
    """Run the proxy on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
