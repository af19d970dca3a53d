"""Fixtures of all tests: services, kits and clients."""

import functools
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import hypothesis
import pytest
import uvicorn

from projkit import ProjKit, Settings
from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer
from projkit.log_limit import flush_all
from tests.host_engines import HOST_DRIVER, host_engine

pytest_plugins = ["tests.services", "tests.redis_servers"]
# What `nox -s properties` asks for; every day it is Hypothesis' own hundred examples of each property.
hypothesis.settings.register_profile("thorough", max_examples=3000, derandomize=False, deadline=None)

SECRET = "a secret of the tests, long enough to be taken"
SCOPES = ("projects:read", "projects:write")
MODES = ("fast", "transactional")
# So that a busy machine turns no answer into a 503.
PATIENT = {
    "database_connect_seconds": 60,
    "database_pool_wait_seconds": 60,
    "database_statement_seconds": 60,
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Every asynchronous test runs on asyncio, with one event loop for all that a module shares."""
    return "asyncio"


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The name of the xdist worker, also where there is none."""
    return str(getattr(request.config, "workerinput", {}).get("workerid", "main"))


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Every HTTP client would read the certificates of the world, which takes longer than most tests; one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture
def unmeasured() -> Iterator[None]:
    """Measures no coverage, which doubles the time, for a test that does thousands of times what others do as well."""
    tracing = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracing)


@contextmanager
def without_settings() -> Iterator[None]:
    """Hide the settings of the user who runs the tests from shared fixtures, which precede those of a single test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("PROJKIT_", "OTEL_")) and not name.startswith(
                ("PROJKIT_REQUIRE", "PROJKIT_TEST")
            ):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Hide the settings and the working directory of the user who runs the tests."""
    monkeypatch.chdir(tmp_path)
    with without_settings():
        yield
    flush_all()  # the counts of repeated warnings, which would otherwise be logged seconds later, in another test


@pytest.fixture(autouse=True)
def litter(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that may leave sockets to the garbage collector has them collected before another is blamed for them."""
    yield
    if any("ResourceWarning" in str(mark.args) for mark in request.node.iter_markers("filterwarnings")):
        gc.collect()


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 6, 15, 12, 0, 0, 123456, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


def settings_for(url: str, **changes: Any) -> Settings:
    """Settings with the tests' secret."""
    return Settings(database_url=url, **{"secret": SECRET, **changes})


def token_for(settings: Settings, subject: str, scopes: tuple[str, ...] = SCOPES, **options: Any) -> str:
    """A token that a kit with these settings takes."""
    return TokenIssuer(load_keys(settings), settings).issue(subject, scopes, **options)


class Client(httpx2.AsyncClient):
    """An HTTP client of one kit, signed in as ``subject``."""

    def __init__(self, app: Any, settings: Settings, subject: str | None = "alice", **options: Any) -> None:
        headers = {} if subject is None else {"Authorization": f"Bearer {token_for(settings, subject)}"}
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=True)
        super().__init__(transport=transport, base_url="http://testserver", headers=headers, **options)
        self.app = app
        self.kit_settings = settings

    def of(self, subject: str) -> "Client":
        """Return another user's client of the same kit."""
        return Client(self.app, self.kit_settings, subject)

    async def project(self, **fields: Any) -> dict[str, Any]:
        """A new project."""
        answer = await self.post("/api/v1/projects", json={"name": "A project", **fields})
        assert answer.status_code == 201, answer.text
        content: dict[str, Any] = answer.json()
        return content


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Serves an app over real HTTP in a thread, with more options of uvicorn; gives its base URL."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", lifespan="on", server_header=False, **options
    )
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


OpenClient = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="module")
def module_clock() -> Clock:
    """The clock of a module's kits."""
    return Clock()


@pytest.fixture
def clock(module_clock: Clock) -> Clock:
    """Return the shared kits' clock, reset to its start."""
    module_clock.now = Clock().now
    return module_clock


@asynccontextmanager
async def kit_in_mode(
    mode: str, url: str, *, options: Mapping[str, Any] | None = None, **changes: Any
) -> AsyncIterator[ProjKit]:
    """Run a kit in a database mode, or on a host's engine, whose driver is then the mode."""
    arguments = dict(options or {})
    async with AsyncExitStack() as stack:
        with without_settings():
            if mode in MODES:
                settings = settings_for(url, database_mode=mode, **changes)
            else:
                settings = settings_for("sqlite:///unused.db", **changes)
                arguments["engine"] = await stack.enter_async_context(host_engine(url, mode))
        kit = ProjKit(settings, **arguments)
        await stack.enter_async_context(kit.lifespan())
        yield kit


@pytest.fixture(scope="module")
def database_mode() -> str:
    """The database mode of the kits; modules that test both modes override it."""
    return HOST_DRIVER or "fast"


@pytest.fixture(scope="module", params=[HOST_DRIVER] if HOST_DRIVER else MODES)
def any_database_mode(request: pytest.FixtureRequest) -> str:
    """Each mode."""
    return str(request.param)


@pytest.fixture
def open_client(any_database_url: str, database_mode: str, clock: Clock) -> OpenClient:
    """Starts a kit on each database and opens a client of it."""

    @asynccontextmanager
    async def start(subject: str | None = "alice", **changes: Any) -> AsyncIterator[Client]:
        changes = {**PATIENT, **changes}
        async with (
            kit_in_mode(database_mode, any_database_url, options={"clock": clock}, **changes) as kit,
            Client(kit, kit.settings, subject) as client,
        ):
            yield client

    return start


@pytest.fixture(scope="module")
async def module_kit(
    anyio_backend: str, module_database_url: str, database_mode: str, module_clock: Clock
) -> AsyncIterator[ProjKit]:
    """A kit on each database that all tests of a module ask, one after the other."""
    async with kit_in_mode(
        database_mode, module_database_url, options={"clock": module_clock}, **PATIENT
    ) as kit:
        yield kit


@pytest.fixture
async def client(module_kit: ProjKit, emptied_database_url: str, clock: Clock) -> AsyncIterator[Client]:
    """Alice's client of a kit on each database, where there is no row yet."""
    async with Client(module_kit, module_kit.settings) as opened:
        yield opened
