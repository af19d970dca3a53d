"""Kits with health checks, and waiting for a check's status."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from projkit import ProjKit
from projkit.health import HealthCheck
from projkit.health.check_scheduler import CheckScheduler, CheckState, Resource
from projkit.health.checks import Observation
from projkit.health.system import SystemSampler
from tests.conftest import Client, settings_for

HEALTH = "/api/v1/health"
PATIENCE = 30.0  # seconds, of a busy machine
Report = dict[str, Any]


class HealthClient:
    """A client of a kit that waits for a check's status."""

    def __init__(self, kit: ProjKit, client: Client) -> None:
        self.kit = kit
        self.client = client

    async def get(self, path: str = "", **headers: str) -> tuple[int, Any]:
        """Return the status and content of a health endpoint."""
        answer = await self.client.get(HEALTH + path, headers=headers)
        return answer.status_code, answer.json()

    async def check(self, name: str) -> Report:
        """Return a check from the details."""
        content = (await self.get("/detailed"))[1]
        found: Report = content["checks"][name]
        return found

    async def until(self, name: str, status: str, detail: str = "") -> Report:
        """Wait until a check has a status and a detail that contains a text."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await self.check(name)
                if found["status"] == status and detail in found.get("detail", ""):
                    return found
                await asyncio.sleep(0.01)


OpenHealth = Callable[..., AbstractAsyncContextManager[HealthClient]]


@pytest.fixture
def open_health(sqlite_url: str) -> OpenHealth:
    """Start a kit with health checks of the host's; ``given`` is passed to the kit, the rest to its settings."""

    @asynccontextmanager
    async def start(
        *checks: HealthCheck, url: str = sqlite_url, given: dict[str, Any] | None = None, **changes: Any
    ) -> AsyncIterator[HealthClient]:
        settings = settings_for(url, **changes)
        kit = ProjKit(settings, **(given or {}))
        for each in checks:
            kit.add_health_check(
                each.name, each.function, critical=each.critical, timeout=each.timeout, period=each.period
            )
        async with kit.lifespan(), Client(kit, settings, None) as client:
            yield HealthClient(kit, client)

    return start


class RunningChecks:
    """Health checks with a short period, without a kit."""

    def __init__(self, scheduler: CheckScheduler) -> None:
        self.scheduler = scheduler

    def state(self, name: str) -> CheckState:
        """Return the state of a check."""
        (found,) = [state for state in self.scheduler.snapshot() if state.name == name]
        return found

    async def until(self, name: str, status: str, detail: str = "") -> Observation:
        """Wait until a check has a status and a detail that contains a text."""
        async with asyncio.timeout(PATIENCE):
            while True:
                state = self.state(name)
                if state.latest is not None and state.status == status and detail in state.latest.detail:
                    return state.latest
                await asyncio.sleep(0.01)

    async def next_result(self, name: str) -> Observation:
        """Return the result of the next complete run of a check."""
        async with asyncio.timeout(PATIENCE):
            for _ in range(2):
                before = self.state(name).latest
                while self.state(name).latest is before:
                    await asyncio.sleep(0.01)
        latest = self.state(name).latest
        assert latest is not None
        return latest


@asynccontextmanager
async def run_checks(
    checks: Iterable[HealthCheck], *resources: Resource, period: float = 0.05, **changes: Any
) -> AsyncIterator[RunningChecks]:
    """Run checks every 50 ms; ``changes`` override their other values."""
    quick = [replace(check, period=period, **changes) for check in checks]
    scheduler = CheckScheduler(quick, SystemSampler(), resources)
    scheduler.start()
    try:
        yield RunningChecks(scheduler)
    finally:
        await scheduler.close()


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Run a server that accepts connections and never responds; yield its port."""
    writers: set[asyncio.StreamWriter] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with suppress(OSError):
            await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()
