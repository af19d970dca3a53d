"""``projkit check``: check the configuration and everything that the kit depends on."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import sqlalchemy as sa
import typer

from projkit.auth.keys import load_keys
from projkit.auth.keys_file import keys_path
from projkit.auth.passwords import Passwords
from projkit.auth.users import Users
from projkit.cli.check_public_url import check_public_url
from projkit.cli.colours import out
from projkit.cli.console import app
from projkit.cli.demo import DEMO_PASSWORD, DEMO_USER
from projkit.cli.findings import Finding
from projkit.cli.otel import read_export_settings
from projkit.cli.otel.export_settings import origin_of
from projkit.clock import utc_now
from projkit.db import revisions
from projkit.db.connect import opened_database, require_schema
from projkit.db.errors import DRIVER_ERRORS, describe
from projkit.db.neighbours import describe_neighbours
from projkit.db.port import Database, required_row
from projkit.db.probe import POSTGRESQL_READ_ONLY
from projkit.db.raw_sql import RawConnection, raw_connection
from projkit.db.server_version import require_server
from projkit.db.statement import Statement
from projkit.db.table_names import TableNames
from projkit.db.tables import Tables
from projkit.errors import ConfigurationError, ProjkitError, UnavailableError
from projkit.health.celery import celery_check
from projkit.health.checks import CheckFailedError
from projkit.redis.connect import close_redis, open_redis
from projkit.redis.memory import eviction_policies
from projkit.settings import Settings, unknown_variables
from projkit.telemetry.families import FILE_BYTES
from projkit.telemetry.worker_files import require_usable

_READ_ONLY: Final = (
    "the server rejects writes (a standby, or default_transaction_read_only); correct PROJKIT_DATABASE_URL, or name "
    "all hosts in it: postgresql://user:password@host1:5432,host2:5432/name"
)
_MAX_CLOCK_SKEW_SECONDS: Final = 2
_CONNECT_TIMEOUT_SECONDS: Final = 2


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check settings, secrets, database, clock, users and configured services. Failures name the fix."""
    findings = asyncio.run(_run_checks())
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings]))
    else:
        for finding in findings:
            label = "[yellow]warning[/yellow]" if finding.warning else "[green]ok[/green]     "
            out.print(label if finding.ok else "[red]failed[/red] ", f"{finding.name:<12}", end=" ")
            out.print(finding.detail, markup=False, highlight=False, soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


async def _run_checks() -> list[Finding]:
    try:
        settings = Settings()
        settings.require_servers()
    except ConfigurationError as error:
        return [Finding("settings", ok=False, detail=error.detail)]
    findings = [_settings(settings), _secrets(settings), await _telemetry(settings)]
    if settings.public_url and findings[1].ok:
        findings.append(await check_public_url(settings))
    if settings.metrics_directory is not None:
        findings.append(_metrics_directory(settings.metrics_directory))
    if settings.redis_url is not None:
        findings.append(await _redis(settings))
    if settings.celery_broker_url is not None:
        findings.append(await asyncio.to_thread(_celery, settings.celery_broker_url.get_secret_value()))
    if settings.embedded and not settings.sqlite_path.exists() and settings.sqlite_path.parent.is_dir():
        detail = (
            f"{settings.sqlite_path} will be created at the first start; if your application passes an engine to the "
            "kit, set PROJKIT_DATABASE_URL to the same database to check that"
        )
        return [*findings, Finding("database", ok=True, detail=detail)]
    findings.extend(await _tables(settings))
    if not findings[-1].ok:
        return findings
    try:
        await require_schema(settings)
    except ConfigurationError as error:
        return [*findings, Finding("row security", ok=False, detail=error.detail)]
    if settings.row_level_security:
        findings.append(Finding("row security", ok=True, detail="enforced for this role"))
    async with opened_database(settings) as (database, tables):
        for name, run in (("clock", _clock), ("users", _users)):
            findings.append(await _run_database_check(name, run, settings, database, tables))
    return findings


async def _tables(settings: Settings) -> list[Finding]:
    """Check the database and the tables in it; the first failure is the last finding."""
    findings, names = [], TableNames.of(settings)
    try:
        async with raw_connection(settings) as connection:
            await require_server(connection)
            if connection.dialect == "postgresql" and await _is_read_only(connection):
                return [Finding("database", ok=False, detail=_READ_ONLY)]
            findings.append(Finding("database", ok=True, detail=f"{settings.dialect} is available"))
            revision = await revisions.require_usable(connection, names)
            behind = revision < revisions.head()
            pending = f"; for revision {revisions.head()}, run: projkit migrate" if behind else ""
            detail = f"at revision {revision}{pending}"
            findings.append(Finding("migrations", ok=True, detail=detail, warning=behind))
            if neighbours := await describe_neighbours(connection, names):
                findings.append(Finding("schema", ok=True, detail=neighbours, warning=True))
    except DRIVER_ERRORS as error:
        fix = "start it, or correct PROJKIT_DATABASE_URL"
        detail = f"{settings.dialect} is unavailable ({describe(error)}); {fix}"
        return [Finding("database", ok=False, detail=detail)]
    except ConfigurationError as error:
        findings.append(Finding("migrations" if findings else "database", ok=False, detail=error.detail))
    return findings


async def _is_read_only(connection: RawConnection) -> bool:
    return bool(required_row(await connection.first_row(POSTGRESQL_READ_ONLY))[0] == "on")


DatabaseCheck = Callable[[Settings, Database, Tables], Awaitable[Finding]]


async def _run_database_check(
    name: str, run: DatabaseCheck, settings: Settings, database: Database, tables: Tables
) -> Finding:
    try:
        return await run(settings, database, tables)
    except ProjkitError as error:
        return Finding(name, ok=False, detail=error.detail)


def _settings(settings: Settings) -> Finding:
    unknown = [
        f"{name}{f' (did you mean {near}?)' if near else ''}"
        for name, near in unknown_variables(os.environ, Settings.model_fields)
    ]
    if unknown:
        return Finding("settings", ok=False, detail=f"unknown settings: {', '.join(unknown)}; unset them")
    return Finding("settings", ok=True, detail=f"env {settings.env}")


def _secrets(settings: Settings) -> Finding:
    try:
        keys = load_keys(settings)
    except ConfigurationError as error:
        return Finding("secrets", ok=False, detail=error.detail)
    path = keys_path(settings)
    if path is not None and path.stat().st_mode & 0o077:
        detail = f"{path} is readable by other users; fix with: chmod 600 {path}"
        return Finding("secrets", ok=False, detail=detail)
    source = "PROJKIT_SECRET" if path is None else str(path)
    detail = f"{len(keys.keys)} key(s) from {source}, signing with {keys.newest.algorithm}"
    return Finding("secrets", ok=True, detail=detail)


def _metrics_directory(path: Path) -> Finding:
    try:
        require_usable(path, FILE_BYTES)
    except ConfigurationError as error:
        return Finding("metrics", ok=False, detail=error.detail)
    return Finding("metrics", ok=True, detail=f"workers share metrics in {path}")


async def _telemetry(settings: Settings) -> Finding:
    try:
        export = read_export_settings(os.environ, settings.trace_ratio)
    except ConfigurationError as error:
        return Finding("telemetry", ok=False, detail=error.detail)
    if export is None:
        detail = "not exported; set OTEL_EXPORTER_OTLP_ENDPOINT to export traces and metrics"
        return Finding("telemetry", ok=True, detail=detail)
    for url in filter(None, export.endpoints.values()):
        if not await _is_listening(url):
            detail = (
                f"no server is listening at {origin_of(url)}, so exported data is lost; start the collector, "
                "or correct OTEL_EXPORTER_OTLP_ENDPOINT"
            )
            return Finding("telemetry", ok=True, detail=detail, warning=True)
    sampling = f"; sampled traces: {export.sampler}" if "traces" in export.endpoints else ""
    return Finding("telemetry", ok=True, detail=f"exports {export}{sampling}")


async def _is_listening(url: str) -> bool:
    parts = urlsplit(origin_of(url))
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:  # includes TimeoutError
        return False
    writer.close()
    return True


async def _redis(settings: Settings) -> Finding:
    assert settings.redis_url is not None  # noqa: S101  # checked by the caller
    usage = "stores the sessions" if settings.session_backend == "redis" else "does not store the sessions"
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
        await close_redis(client)
    if policies and settings.session_backend == "redis":
        detail = (
            f"available, {usage}, but maxmemory-policy {min(policies)} evicts them when memory is full, "
            "which logs users out; fix with: redis-cli CONFIG SET maxmemory-policy noeviction"
        )
        return Finding("redis", ok=True, detail=detail, warning=True)
    return Finding("redis", ok=True, detail=f"available, {usage}")


def _celery(broker_url: str) -> Finding:
    """Run the health check once; a missing worker is only a warning, because the configuration is correct."""
    fix = "start it, or correct PROJKIT_CELERY_BROKER_URL"
    try:
        data = celery_check(None, broker_url).function()
    except ConfigurationError as error:
        return Finding("celery", ok=False, detail=error.detail)
    except CheckFailedError as error:
        if error.data is None:
            return Finding("celery", ok=False, detail=f"{error.detail}; {fix}")
        detail = f"the broker is available, but {error.detail}; start a worker"
        return Finding("celery", ok=True, detail=detail, warning=True)
    return Finding(
        "celery", ok=True, detail=f"the broker is available, {data['workers']} worker(s) responded"
    )


async def _clock(settings: Settings, database: Database, _: Tables) -> Finding:
    # Both statements return the time in seconds since 1970.
    if settings.dialect == "postgresql":
        statement = Statement(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()).label("now")))
    else:
        statement = Statement(sa.select(sa.func.strftime("%s", "now").label("now")))
    row = await database.fetch_one(statement, {})
    skew = abs(float(row[0]) - time.time()) if row else 0.0
    if skew > _MAX_CLOCK_SKEW_SECONDS:
        detail = f"differs from the database's clock by {skew:.1f} s; synchronize both with NTP"
        return Finding("clock", ok=False, detail=detail)
    return Finding("clock", ok=True, detail=f"within {_MAX_CLOCK_SKEW_SECONDS} s of the database's clock")


async def _users(settings: Settings, database: Database, tables: Tables) -> Finding:
    users = tables.users
    query = sa.select(sa.func.count(users.c.username), sa.func.count(users.c.disabled_at))
    row = await database.fetch_one(Statement(query), {})
    total, disabled = row or (0, 0)
    if settings.env == "production" and await _demo_can_log_in(database, tables):
        detail = (
            f"{DEMO_USER} can log in with the publicly known demo password; "
            f"fix with: projkit user disable {DEMO_USER}"
        )
        return Finding("users", ok=False, detail=detail)
    return Finding("users", ok=True, detail=f"{total} with a username, {disabled} disabled")


async def _demo_can_log_in(database: Database, tables: Tables) -> bool:
    user = await Users(database, tables, clock=utc_now).by_name(DEMO_USER)
    if user is None or user.disabled_at is not None:
        return False
    passwords = Passwords(threads=1)
    try:
        return await passwords.verify(user.password_hash, DEMO_PASSWORD)
    finally:
        passwords.close()
