"""``projkit migrate``, ``projkit check`` and ``projkit purge``."""

import asyncio
import json
import os
import time
from datetime import timedelta
from typing import Annotated, NamedTuple

import sqlalchemy as sa
import typer

from projkit.auth.keys import DEVELOPMENT_KEYS, load_keys
from projkit.cli.console import app, duration, err, failed, load_settings, out
from projkit.clock import utc_now
from projkit.db import migrate as migrations
from projkit.db.connect import open_database
from projkit.db.statement import Statement
from projkit.db.tables import build_tables
from projkit.errors import ConfigurationError, ProjkitError
from projkit.projects.statements import IDEMPOTENCY_WINDOW
from projkit.settings import Settings, unknown_variables


@app.command()
def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only tell whether it is up to date.")] = False,
) -> None:
    """Bring the database's schema up to date; safe when several start at once."""
    settings = load_settings()
    if check:
        asyncio.run(_require(settings))
        err.print("the schema is up to date")
        return
    try:
        revision = asyncio.run(migrations.upgrade(settings.database_url, table_prefix=settings.table_prefix))
    except (OSError, sa.exc.SQLAlchemyError, TimeoutError) as error:
        reason = getattr(error, "orig", None) or error
        raise ConfigurationError(f"PROJKIT_DATABASE_URL: {reason}; is the database running?") from error
    err.print(f"the schema is at revision {revision}")


class Finding(NamedTuple):
    """One line of ``projkit check``."""

    name: str
    ok: bool
    detail: str


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Look at settings, secrets, database, migrations and clock: a line each, with the mend."""
    findings = asyncio.run(_findings())
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings]))
    else:
        for finding in findings:
            mark = "[green]ok[/green]    " if finding.ok else "[red]failed[/red]"
            out.print(mark, f"{finding.name:<12}", end=" ")
            out.print(finding.detail, markup=False, highlight=False, soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def purge(
    deleted_before: Annotated[str, typer.Option(help="How long ago they must have been deleted: 12h, 30d.")],
) -> None:
    """Remove deleted projects, and idempotency keys that have expired, for good."""
    age = duration(deleted_before)
    projects, keys = asyncio.run(_purge(load_settings(), age))
    err.print(f"removed {projects} deleted projects and {keys} expired idempotency keys")


async def _require(settings: Settings) -> None:
    migrations.require(await migrations.current(settings.database_url, table_prefix=settings.table_prefix))


async def _findings() -> list[Finding]:
    unknown = [f"{name}{f' (did you mean {near}?)' if near else ''}" for name, near in unknown_variables(os.environ)]
    try:
        settings = Settings()
    except ConfigurationError as error:
        return [Finding("settings", ok=False, detail=error.detail)]
    if unknown:
        found = [Finding("settings", ok=False, detail=f"not settings of projkit: {', '.join(unknown)}; unset them")]
    else:
        found = [Finding("settings", ok=True, detail=f"env {settings.env}")]
    found.append(_secrets(settings))
    try:
        revision = await migrations.current(settings.database_url, table_prefix=settings.table_prefix)
    except (OSError, sa.exc.SQLAlchemyError, TimeoutError) as error:
        reason = getattr(error, "orig", None) or error
        mend = "start it, or correct PROJKIT_DATABASE_URL"
        return [*found, Finding("database", ok=False, detail=f"{settings.dialect}: {reason}; {mend}")]
    found.append(Finding("database", ok=True, detail=f"{settings.dialect} answers"))
    try:
        migrations.require(revision)
        found.append(Finding("migrations", ok=True, detail=f"at revision {revision}"))
    except ConfigurationError as error:
        return [*found, Finding("migrations", ok=False, detail=error.detail)]
    return [*found, await _clock(settings)]


def _secrets(settings: Settings) -> Finding:
    try:
        keys = load_keys(settings)
    except ConfigurationError as error:
        return Finding("secrets", ok=False, detail=error.detail)
    path = settings.keys_file
    if path is not None and path.stat().st_mode & 0o077:
        return Finding("secrets", ok=False, detail=f"{path} can be read by others; mend with: chmod 600 {path}")
    source = "PROJKIT_SECRET" if settings.secret else str(path or DEVELOPMENT_KEYS)
    return Finding("secrets", ok=True, detail=f"{len(keys.keys)} key(s) from {source}, signing with {keys.newest.algorithm}")


async def _clock(settings: Settings) -> Finding:
    database = await open_database(settings, build_tables(settings.table_prefix))
    try:
        # Both databases tell the time as seconds since 1970.
        if settings.dialect == "postgresql":
            asked = Statement(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()).label("now")))
        else:
            asked = Statement(sa.select(sa.func.strftime("%s", "now").label("now")))
        row = await database.fetch_one(asked, {})
    finally:
        await database.close()
    apart = abs(float(row[0]) - time.time()) if row else 0.0
    if apart > 2:
        detail = f"{apart:.1f} s apart from the database's; let NTP set both clocks"
        return Finding("clock", ok=False, detail=detail)
    return Finding("clock", ok=True, detail="agrees with the database's within 2 s")


async def _purge(settings: Settings, age: timedelta) -> tuple[int, int]:
    tables = build_tables(settings.table_prefix)
    database = await open_database(settings, tables)
    projects, keys = tables.projects, tables.idempotency_keys
    now = utc_now()
    try:
        removed = await database.transact(
            lambda transaction: transaction.fetch_all(
                Statement(
                    sa.delete(projects)
                    .where(projects.c.deleted_at < sa.bindparam("before", type_=projects.c.deleted_at.type))
                    .returning(projects.c.id)
                ),
                {"before": now - age},
            )
        )
        expired = await database.transact(
            lambda transaction: transaction.fetch_all(
                Statement(
                    sa.delete(keys)
                    .where(keys.c.created_at < sa.bindparam("before", type_=keys.c.created_at.type))
                    .returning(keys.c.key)
                ),
                {"before": now - IDEMPOTENCY_WINDOW},
            )
        )
    except ProjkitError as error:
        failed(error.detail)
        raise typer.Exit(1) from None
    finally:
        await database.close()
    return len(removed), len(expired)
