"""``projkit serve``."""

import asyncio
import os
import socket
from typing import Annotated

import typer
import uvicorn
from uvicorn.supervisors import Multiprocess

from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer
from projkit.cli.console import app, err, load_settings
from projkit.cli.demo import DEMO_SUBJECT, add_demo_projects
from projkit.cli.server import DrainingServer, configure_logging
from projkit.db.connect import open_database
from projkit.db.tables import build_tables
from projkit.errors import ConfigurationError
from projkit.identity import DEFAULT_SCOPES
from projkit.settings import Settings


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for any free one.", min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=256)] = 1,
    demo: Annotated[bool, typer.Option("--demo", help="Add a realistic set of projects, once.")] = False,
    access_log: Annotated[bool, typer.Option(help="One log line a request.")] = True,
) -> None:
    """Serve the API: migrate the embedded database, start uvicorn, drain before exiting."""
    if not access_log:
        os.environ["PROJKIT_ACCESS_LOG"] = "false"  # read by each worker
    settings = load_settings()
    configure_logging(settings)
    asyncio.run(_prepare(settings, demo=demo))
    config = uvicorn.Config(
        "projkit.cli.server:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=int(settings.request_timeout_seconds) + 1,
    )
    listener = _listen(config, host, port)
    _greet(settings, host, listener.getsockname()[1])
    server = DrainingServer(config, drain_seconds=settings.drain_seconds, freeze_gc=settings.freeze_gc)
    if workers == 1:
        server.run(sockets=[listener])
        if not server.started:
            raise typer.Exit(1)
    else:
        Multiprocess(config, target=server.run, sockets=[listener]).run()


async def _prepare(settings: Settings, *, demo: bool) -> None:
    """Says what is wrong before any worker starts; migrates the embedded database; adds the demo's projects."""
    load_keys(settings)
    tables = build_tables(settings.table_prefix)
    database = await open_database(settings, tables)
    try:
        if demo:
            await add_demo_projects(database, tables)
    finally:
        await database.close()


def _listen(config: uvicorn.Config, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another one with: projkit serve --port {port + 1}"
        ) from error
    listener.set_inheritable(True)
    listener.listen(config.backlog)
    return listener


def _greet(settings: Settings, host: str, port: int) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    api = address + settings.api_prefix
    err.print(f"projkit serves {settings.dialect} at {api}", highlight=False)
    err.print(f"  API docs   {api}/docs", highlight=False)
    err.print(f"  liveness   {api}/health/live", highlight=False)
    if settings.env != "development" or settings.tenant_claim:
        return
    token = TokenIssuer(load_keys(settings), settings).issue(DEMO_SUBJECT, DEFAULT_SCOPES, seconds=86_400)
    err.print("Try it (the token is good for a day):")
    # Plain print: the line is to be pasted, so nothing may wrap or colour it.
    err.file.write(f"  curl -H 'Authorization: Bearer {token}' {api}/projects\n")
    err.file.flush()
