"""``projkit migrate``."""

import asyncio
from typing import Annotated

import typer

from projkit.cli.console import app, load_settings, say
from projkit.db import migrate as migrations
from projkit.db.connect import require_schema
from projkit.db.errors import FAILURES
from projkit.errors import ConfigurationError


@app.command()
def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only tell whether it is up to date.")] = False,
) -> None:
    """Bring the database's schema up to date; safe when several start at once."""
    settings = load_settings()
    try:
        if check:
            asyncio.run(require_schema(settings, serving=False))
            say("the schema is up to date")
            return
        revision = asyncio.run(
            migrations.upgrade(
                settings.database_url,
                table_prefix=settings.table_prefix,
                row_level_security=settings.row_level_security,
            )
        )
    except FAILURES as error:
        reason = getattr(error, "orig", None) or error
        raise ConfigurationError(f"PROJKIT_DATABASE_URL: {reason}; is the database running?") from error
    walled = ", with row-level security" if settings.row_level_security else ""
    say(f"the schema is at revision {revision}{walled}")
