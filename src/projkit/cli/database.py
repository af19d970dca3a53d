"""``projkit migrate``."""

import asyncio
from typing import Annotated

import typer

from projkit.cli.console import app, load_settings, print_message
from projkit.db import migrate as migrations
from projkit.db.connect import require_schema
from projkit.db.errors import DRIVER_ERRORS
from projkit.errors import ConfigurationError


@app.command()
def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Only check whether this version can use the schema.")
    ] = False,
    new: Annotated[
        bool,
        typer.Option(
            "--new", help="Create tables even if another schema of the database has the kit's tables."
        ),
    ] = False,
) -> None:
    """Migrate the database to the latest schema. Concurrent runs are safe."""
    settings = load_settings()
    try:
        if check:
            asyncio.run(require_schema(settings, serving=False))
            print_message("this version of projkit can use the schema")
            return
        revision = asyncio.run(
            migrations.upgrade(
                settings.database_url,
                table_prefix=settings.table_prefix,
                database_schema=settings.database_schema,
                row_level_security=settings.row_level_security,
                new=new,
            )
        )
    except DRIVER_ERRORS as error:
        reason = getattr(error, "orig", None) or error
        raise ConfigurationError(
            f"PROJKIT_DATABASE_URL: database unavailable ({reason}); check that it is running"
        ) from error
    row_security = ", with row-level security" if settings.row_level_security else ""
    print_message(f"the schema is at revision {revision}{row_security}")
