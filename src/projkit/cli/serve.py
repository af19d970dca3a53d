"""``projkit serve``."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Final

import typer
import uvicorn

from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer
from projkit.cli.console import app, load_settings, print_message, print_warning
from projkit.cli.demo import DEMO_PASSWORD, DEMO_SUBJECT, DEMO_USER, add_demo_projects, add_demo_user
from projkit.cli.logs import configure_logging
from projkit.cli.malloc import share_arena
from projkit.cli.metrics_directory import MetricsDirectory
from projkit.cli.otel import read_export_settings
from projkit.db.connect import opened_database
from projkit.errors import ConfigurationError
from projkit.identity import DEFAULT_SCOPES
from projkit.settings import Settings
from projkit.telemetry.families import FILE_BYTES
from projkit.telemetry.worker_files import require_usable

logger: Final = logging.getLogger("projkit")

# The time that a worker may take to stop after draining and its last request, such as for the export of the last spans.
_STOP_SECONDS: Final = 15.0
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="The port to listen on; 0 for any free port.", min=0, max=65535)
    ] = 8000,
    workers: Annotated[int, typer.Option(help="The number of worker processes.", min=1, max=256)] = 1,
    demo: Annotated[
        bool, typer.Option("--demo", help="Add a demo user and demo projects, unless they exist.")
    ] = False,
    root_path: Annotated[
        str | None,
        typer.Option(
            help="The path at which a proxy serves the API, such as /kit, whether it strips the path or keeps it. "
            "By default the path of PROJKIT_PUBLIC_URL.",
            show_default=False,
        ),
    ] = None,
    access_log: Annotated[bool, typer.Option(help="Log one line per request.")] = True,
) -> None:
    """Serve the API. Migrates the embedded database, starts uvicorn, and drains before exiting."""
    share_arena()
    if not access_log:
        os.environ["PROJKIT_ACCESS_LOG"] = "false"  # read by each worker
    if root_path is not None:
        os.environ["PROJKIT_ROOT_PATH"] = root_path
    warnings: list[str] = []
    settings = load_settings(warnings.append)
    if demo:
        _check_demo(settings)
    configure_logging(settings)
    # For workers, before they have read their settings.
    os.environ["PROJKIT_LOG_FORMAT"] = settings.log_format
    for warning in warnings:
        _warn(settings, warning)
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
        proxy_headers=False,  # PROJKIT_TRUSTED_PROXIES decides; uvicorn would trust this machine
        lifespan="on",
        # Longer than proxies keep idle connections: a request on one that closes would be lost.
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=int(settings.request_timeout_seconds) + 1,
    )
    listener = _listen(config, host, port)
    _print_greeting(settings, host, listener.getsockname()[1], demo_user=demo_user)
    has_served = (
        _run_workers(config, listener, settings) if workers > 1 else _run_in_this_process(config, listener)
    )
    if not has_served:
        raise typer.Exit(1)


def _run_workers(config: uvicorn.Config, listener: socket.socket, settings: Settings) -> bool:
    """Serve with several processes; return False if none of them could start."""
    from projkit.cli.supervisor import Supervisor
    from projkit.cli.worker_process import WorkerProcess

    stop_seconds = settings.drain_seconds + settings.request_timeout_seconds + _STOP_SECONDS
    with _shared_metrics(settings, config.workers) as ensure_directory:

        def start_worker() -> WorkerProcess:
            ensure_directory()
            return WorkerProcess(config, listener)

        return Supervisor(start_worker, workers=config.workers, stop_seconds=stop_seconds).run()


def _run_in_this_process(config: uvicorn.Config, listener: socket.socket) -> bool:
    """Serve with this process alone; return False if it could not start."""
    server = uvicorn.Server(config)
    _exit_cleanly_after(server)
    server.run(sockets=[listener])
    return server.started


@contextmanager
def _shared_metrics(settings: Settings, workers: int) -> Iterator[Callable[[], None]]:
    """Provide the directory in which workers share their metrics, so that each of them reports for all.

    Yield a function to call before a worker starts.
    """
    if settings.metrics_directory is not None:
        yield lambda: None
        return
    with MetricsDirectory(settings, workers) as directory:
        os.environ["PROJKIT_METRICS_DIRECTORY"] = str(directory.path)  # read by each worker
        yield directory.ensure


def _exit_cleanly_after(server: uvicorn.Server) -> None:
    """Make the exit code 0 after a graceful stop, when uvicorn raises the signal again."""

    def handle(number: int, _: FrameType | None) -> None:
        if not server.started:
            sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _check_demo(settings: Settings) -> None:
    if settings.env == "production":
        raise ConfigurationError(
            "--demo adds a user with a publicly known password and is not allowed in production; "
            "remove --demo, or set PROJKIT_ENV=development"
        )
    if settings.tenant_claim:
        raise ConfigurationError("--demo does not support tenants; remove it, or unset PROJKIT_TENANT_CLAIM")


async def _prepare(settings: Settings, *, demo: bool) -> bool:
    """Validate the configuration before any worker starts, migrate the embedded database, and add the demo data.

    Return whether the demo user can log in.
    """
    load_keys(settings)
    if settings.metrics_directory is not None:
        require_usable(settings.metrics_directory, FILE_BYTES)
    read_export_settings(os.environ, settings.trace_ratio)
    async with opened_database(settings) as (database, tables):
        if not demo:
            return False
        await add_demo_projects(database, tables)
        return await add_demo_user(database, tables)


def _listen(config: uvicorn.Config, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except socket.gaierror as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}: {error.strerror}; use an address of this machine, such as: "
            "projkit serve --host 127.0.0.1"
        ) from error
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            f"choose another port with: projkit serve --port {port + 1}"
        ) from error
    listener.set_inheritable(True)
    listener.listen(config.backlog)
    return listener


def _warn(settings: Settings, message: str) -> None:
    if settings.log_format == "json":
        logger.warning("%s", message)
    else:
        print_warning(message)


def _print_greeting(settings: Settings, host: str, port: int, *, demo_user: bool) -> None:
    """Print the addresses or, as JSON, log them; the log contains no token and no password."""
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    api = address + (settings.public_path or "") + settings.api_prefix
    addresses = {
        "API docs": f"{api}/docs",
        "Status page": f"{api}/monitoring",
        "Liveness": f"{api}/health/live",
    }
    if settings.public_url:
        addresses = {"Public URL": f"{settings.public_base}{settings.api_prefix}", **addresses}
    if (export := read_export_settings(os.environ, settings.trace_ratio)) is not None:
        addresses["Telemetry"] = str(export)
    as_json = settings.log_format == "json"
    if as_json:
        logger.info("projkit (%s) is running at %s", settings.dialect, api, extra={"url": api})
        for name, each in addresses.items():
            logger.info("%s: %s", name, each)
    else:
        print_message(f"projkit ({settings.dialect}) is running at {api}")
        for name, each in addresses.items():
            print_message(f"  {name:<12} {each}")
    if settings.env == "development" and host not in _LOOPBACK:
        _warn(
            settings, "this development server is reachable from other machines; set PROJKIT_ENV=production"
        )
    if settings.env == "development" and not settings.tenant_claim and not as_json:
        _print_credentials(settings, api, demo_user=demo_user)


def _print_credentials(settings: Settings, api: str, *, demo_user: bool) -> None:
    token = TokenIssuer(load_keys(settings), settings).issue(DEMO_SUBJECT, DEFAULT_SCOPES, seconds=86_400)
    print_message("Try it (the token is valid for one day):")
    print_message(f"  curl -H 'Authorization: Bearer {token}' {api}/projects")
    if demo_user:
        print_message(f"Log in as {DEMO_USER} with the password {DEMO_PASSWORD}:")
        body = json.dumps({"username": DEMO_USER, "password": DEMO_PASSWORD})
        print_message(f"  curl -H 'Content-Type: application/json' -d '{body}' {api}/auth/login")
