"""``projkit check``."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlsplit

import sqlalchemy as sa
import typer

from projkit.auth.keys import load_keys
from projkit.auth.keys_file import keys_path
from projkit.auth.passwords import Passwords
from projkit.auth.users import Users
from projkit.cli.colours import out
from projkit.cli.console import app
from projkit.cli.demo import DEMO_PASSWORD, DEMO_USER
from projkit.cli.otel import read_export_settings
from projkit.cli.otel.variables import origin_of
from projkit.clock import utc_now
from projkit.db import migrate as migrations
from projkit.db import revisions
from projkit.db.connect import open_database, require_schema
from projkit.db.port import Database
from projkit.db.statement import Statement
from projkit.db.tables import Tables, build_tables
from projkit.errors import ConfigurationError, ProjkitError, UnavailableError
from projkit.health.celery import celery_check
from projkit.health.checks import CheckFailedError
from projkit.redis.connect import open_redis
from projkit.redis.memory import eviction_policies
from projkit.settings import Settings, unknown_variables
from projkit.telemetry.families import FILE_BYTES

_SECONDS_APART: Final = 2
_CONNECT_SECONDS: Final = 2


class Finding(NamedTuple):
    """One line: good, or not; a ``warning`` is good, and yet to be looked at."""

    name: str
    ok: bool
    detail: str
    warning: bool = False


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Look at settings, secrets, database, clock, users and whatever else is set: a line each, with the mend."""
    findings = asyncio.run(_findings())
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings]))
    else:
        for finding in findings:
            good = "[yellow]warning[/yellow]" if finding.warning else "[green]ok[/green]     "
            out.print(good if finding.ok else "[red]failed[/red] ", f"{finding.name:<12}", end=" ")
            out.print(finding.detail, markup=False, highlight=False, soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


async def _findings() -> list[Finding]:
    try:
        settings = Settings()
    except ConfigurationError as error:
        return [Finding("settings", ok=False, detail=error.detail)]
    found = [_settings(settings), _secrets(settings), await _telemetry(settings)]
    if settings.metrics_directory is not None:
        found.append(_metrics_directory(settings.metrics_directory))
    if settings.redis_url is not None:
        found.append(await _redis(settings))
    if settings.celery_broker_url is not None:
        found.append(await asyncio.to_thread(_celery, settings.celery_broker_url.get_secret_value()))
    if settings.embedded and not settings.sqlite_path.exists() and settings.sqlite_path.parent.is_dir():
        detail = f"{settings.sqlite_path} is made at the first start"
        return [*found, Finding("database", ok=True, detail=detail)]
    try:
        revision = await migrations.current(settings.database_url, table_prefix=settings.table_prefix)
    except (OSError, sa.exc.SQLAlchemyError, TimeoutError) as error:
        reason = getattr(error, "orig", None) or error
        mend = "start it, or correct PROJKIT_DATABASE_URL"
        return [*found, Finding("database", ok=False, detail=f"{settings.dialect}: {reason}; {mend}")]
    found.append(Finding("database", ok=True, detail=f"{settings.dialect} answers"))
    try:
        revisions.require(revision)
        found.append(Finding("migrations", ok=True, detail=f"at revision {revision}"))
    except ConfigurationError as error:
        return [*found, Finding("migrations", ok=False, detail=error.detail)]
    try:
        await require_schema(settings)
    except ConfigurationError as error:
        return [*found, Finding("row security", ok=False, detail=error.detail)]
    if settings.row_level_security:
        found.append(Finding("row security", ok=True, detail="holds for this role"))
    tables = build_tables(settings.table_prefix)
    database = await open_database(settings, tables)
    try:
        for name, look in (("clock", _clock), ("users", _users)):
            found.append(await _guarded(name, look, settings, database, tables))
    finally:
        await database.close()
    return found


Look = Callable[[Settings, Database, Tables], Awaitable[Finding]]


async def _guarded(name: str, look: Look, settings: Settings, database: Database, tables: Tables) -> Finding:
    try:
        return await look(settings, database, tables)
    except ProjkitError as error:
        return Finding(name, ok=False, detail=error.detail)


def _settings(settings: Settings) -> Finding:
    unknown = [
        f"{name}{f' (did you mean {near}?)' if near else ''}"
        for name, near in unknown_variables(os.environ, Settings.model_fields)
    ]
    if unknown:
        return Finding(
            "settings", ok=False, detail=f"not settings of projkit: {', '.join(unknown)}; unset them"
        )
    return Finding("settings", ok=True, detail=f"env {settings.env}")


def _secrets(settings: Settings) -> Finding:
    try:
        keys = load_keys(settings)
    except ConfigurationError as error:
        return Finding("secrets", ok=False, detail=error.detail)
    path = keys_path(settings)
    if path is not None and path.stat().st_mode & 0o077:
        detail = f"{path} can be read by others; mend with: chmod 600 {path}"
        return Finding("secrets", ok=False, detail=detail)
    source = "PROJKIT_SECRET" if path is None else str(path)
    detail = f"{len(keys.keys)} key(s) from {source}, signing with {keys.newest.algorithm}"
    return Finding("secrets", ok=True, detail=detail)


def _metrics_directory(path: Path) -> Finding:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=path) as file:
            os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
    except OSError as error:
        mend = (
            f"name a directory in PROJKIT_METRICS_DIRECTORY that every worker may write to ({error.strerror})"
        )
        return Finding("metrics", ok=False, detail=f"{path} cannot be used; {mend}")
    return Finding("metrics", ok=True, detail=f"workers count together in {path}")


async def _telemetry(settings: Settings) -> Finding:
    try:
        export = read_export_settings(os.environ, settings.trace_ratio)
    except ConfigurationError as error:
        return Finding("telemetry", ok=False, detail=error.detail)
    if export is None:
        detail = "off; OTEL_EXPORTER_OTLP_ENDPOINT says where traces and metrics go"
        return Finding("telemetry", ok=True, detail=detail)
    for url in filter(None, export.endpoints.values()):
        if not await _listens(url):
            detail = (
                f"nobody listens at {origin_of(url)}, and what is exported is lost; start the collector, "
                "or correct OTEL_EXPORTER_OTLP_ENDPOINT"
            )
            return Finding("telemetry", ok=True, detail=detail, warning=True)
    kept = f"; traces kept: {export.sampler}" if "traces" in export.endpoints else ""
    return Finding("telemetry", ok=True, detail=f"exports {export}{kept}")


async def _listens(url: str) -> bool:
    parts = urlsplit(origin_of(url))
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:  # time-outs among them
        return False
    writer.close()
    return True


async def _redis(settings: Settings) -> Finding:
    assert settings.redis_url is not None  # noqa: S101  # asked only then
    holds = "holds the sessions" if settings.session_backend == "redis" else "is set, but holds no sessions"
    try:
        client = open_redis(settings.redis_url.get_secret_value())
    except ConfigurationError as error:
        return Finding("redis", ok=False, detail=error.detail)
    try:
        policies = await eviction_policies(client)
    except UnavailableError as error:
        detail = f"{error.detail}; start it, or correct PROJKIT_REDIS_URL"
        return Finding("redis", ok=False, detail=detail)
    finally:
        await client.aclose()
    if policies and settings.session_backend == "redis":
        detail = (
            f"answers and {holds}, but under maxmemory-policy {min(policies)} it drops them when its memory is full, "
            "and users are logged out; mend with: redis-cli CONFIG SET maxmemory-policy noeviction"
        )
        return Finding("redis", ok=True, detail=detail, warning=True)
    return Finding("redis", ok=True, detail=f"answers and {holds}")


def _celery(broker_url: str) -> Finding:
    """What the health check sees; without a worker at this moment nothing is configured wrongly."""
    mend = "start it, or correct PROJKIT_CELERY_BROKER_URL"
    try:
        data = celery_check(None, broker_url).function()
    except ConfigurationError as error:
        return Finding("celery", ok=False, detail=error.detail)
    except CheckFailedError as error:
        if error.data is None:
            return Finding("celery", ok=False, detail=f"{error.detail}; {mend}")
        detail = f"the broker answers, but {error.detail}; start a worker"
        return Finding("celery", ok=True, detail=detail, warning=True)
    return Finding("celery", ok=True, detail=f"the broker and {data['workers']} worker(s) answer")


async def _clock(settings: Settings, database: Database, _: Tables) -> Finding:
    # Both databases tell the time as seconds since 1970.
    if settings.dialect == "postgresql":
        asked = Statement(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()).label("now")))
    else:
        asked = Statement(sa.select(sa.func.strftime("%s", "now").label("now")))
    row = await database.fetch_one(asked, {})
    apart = abs(float(row[0]) - time.time()) if row else 0.0
    if apart > _SECONDS_APART:
        detail = f"{apart:.1f} s apart from the database's; let NTP set both clocks"
        return Finding("clock", ok=False, detail=detail)
    return Finding("clock", ok=True, detail=f"agrees with the database's within {_SECONDS_APART} s")


async def _users(settings: Settings, database: Database, tables: Tables) -> Finding:
    users = tables.users
    asked = sa.select(sa.func.count(users.c.username), sa.func.count(users.c.disabled_at))
    row = await database.fetch_one(Statement(asked), {})
    named, disabled = row or (0, 0)
    if settings.env == "production" and await _demo_may_log_in(database, tables):
        detail = (
            f"{DEMO_USER} may log in with the password that everybody knows; "
            f"mend with: projkit user disable {DEMO_USER}"
        )
        return Finding("users", ok=False, detail=detail)
    return Finding("users", ok=True, detail=f"{named} with a name, {disabled} disabled")


async def _demo_may_log_in(database: Database, tables: Tables) -> bool:
    demo = await Users(database, tables, clock=utc_now).by_name(DEMO_USER)
    if demo is None or demo.disabled_at is not None:
        return False
    passwords = Passwords(threads=1)
    try:
        return await passwords.verify(demo.password_hash, DEMO_PASSWORD)
    finally:
        passwords.close()
