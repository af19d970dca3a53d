"""``projkit serve``."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Final

import typer
import uvicorn

from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer
from projkit.cli.console import app, load_settings, say
from projkit.cli.demo import DEMO_PASSWORD, DEMO_SUBJECT, DEMO_USER, add_demo_projects, add_demo_user
from projkit.cli.logs import configure_logging
from projkit.cli.malloc import share_arena
from projkit.cli.otel import read_export_settings
from projkit.db.connect import open_database
from projkit.db.tables import build_tables
from projkit.errors import ConfigurationError
from projkit.identity import DEFAULT_SCOPES
from projkit.settings import Settings

# How long a worker may take to start, or to answer its parent, on a machine that is busy.
_WORKER_SECONDS: Final = 30
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="The port to listen on; 0 for any free one.", min=0, max=65535)
    ] = 8000,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=256)] = 1,
    demo: Annotated[
        bool, typer.Option("--demo", help="Add a user and a realistic set of projects, once.")
    ] = False,
    access_log: Annotated[bool, typer.Option(help="One log line a request.")] = True,
) -> None:
    """Serve the API: migrate the embedded database, start uvicorn, drain before exiting."""
    share_arena()
    if not access_log:
        os.environ["PROJKIT_ACCESS_LOG"] = "false"  # read by each worker
    settings = load_settings()
    if demo:
        _check_demo(settings)
    configure_logging(settings)
    demo_user = asyncio.run(_prepare(settings, demo=demo))
    config = uvicorn.Config(
        "projkit.cli.server:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe says PROJKIT_TRUSTED_PROXIES, and uvicorn would believe this machine
        lifespan="on",
        timeout_worker_healthcheck=_WORKER_SECONDS,
        timeout_graceful_shutdown=int(settings.request_timeout_seconds) + 1,
    )
    listener = _listen(config, host, port)
    _greet(settings, host, listener.getsockname()[1], demo_user=demo_user)
    if workers > 1:
        from uvicorn.supervisors import Multiprocess  # brings along what watches files

        with _shared_metrics(settings):
            Multiprocess(config, sockets=[listener]).run()
        return
    server = uvicorn.Server(config)
    _exit_cleanly_after(server)
    server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(1)


@contextmanager
def _shared_metrics(settings: Settings) -> Iterator[None]:
    """Where the workers keep what they count, so that each of them answers for all."""
    if settings.metrics_directory is not None:
        yield
        return
    with TemporaryDirectory(prefix="projkit-metrics-") as directory:
        os.environ["PROJKIT_METRICS_DIRECTORY"] = directory  # read by each worker
        yield


def _exit_cleanly_after(server: uvicorn.Server) -> None:
    """After a graceful stop uvicorn raises the signal once more, which would end the process with its number."""

    def stopped(number: int, _: FrameType | None) -> None:
        if not server.started:
            sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopped)


def _check_demo(settings: Settings) -> None:
    if settings.env == "production":
        raise ConfigurationError(
            "--demo adds a user whose password everybody knows, so production refuses it; "
            "leave --demo out, or set PROJKIT_ENV=development"
        )
    if settings.tenant_claim:
        raise ConfigurationError("--demo knows no tenants; leave it out, or unset PROJKIT_TENANT_CLAIM")


async def _prepare(settings: Settings, *, demo: bool) -> bool:
    """Says what is wrong before any worker starts; migrates the embedded database; adds what the demo shows.

    Tells whether the demo's user can log in.
    """
    load_keys(settings)
    read_export_settings(os.environ, settings.trace_ratio)
    tables = build_tables(settings.table_prefix)
    database = await open_database(settings, tables)
    try:
        if not demo:
            return False
        await add_demo_projects(database, tables)
        return await add_demo_user(database, tables)
    finally:
        await database.close()


def _listen(config: uvicorn.Config, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except socket.gaierror as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}: {error.strerror}; name an address of this machine, as in: "
            "projkit serve --host 127.0.0.1"
        ) from error
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            f"choose another one with: projkit serve --port {port + 1}"
        ) from error
    listener.set_inheritable(True)
    listener.listen(config.backlog)
    return listener


def _greet(settings: Settings, host: str, port: int, *, demo_user: bool) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    api = address + settings.api_prefix
    say(f"projkit serves {settings.dialect} at {api}")
    say(f"  API docs     {api}/docs")
    say(f"  Status page  {api}/monitoring")
    say(f"  liveness     {api}/health/live")
    if (export := read_export_settings(os.environ, settings.trace_ratio)) is not None:
        say(f"  Telemetry    {export}")
    if settings.env == "development" and host not in _LOOPBACK:
        say("warning: in development others should not reach this server; set PROJKIT_ENV=production")
    if settings.env != "development" or settings.tenant_claim:
        return
    token = TokenIssuer(load_keys(settings), settings).issue(DEMO_SUBJECT, DEFAULT_SCOPES, seconds=86_400)
    say("Try it (the token is good for a day):")
    say(f"  curl -H 'Authorization: Bearer {token}' {api}/projects")
    if demo_user:
        say(f"Log in as {DEMO_USER} with the password {DEMO_PASSWORD}:")
        body = json.dumps({"username": DEMO_USER, "password": DEMO_PASSWORD})
        say(f"  curl -H 'Content-Type: application/json' -d '{body}' {api}/auth/login")
