"""``projkit migrate``."""

import asyncio
from typing import Annotated

import typer

from projkit.cli.colours import print_table
from projkit.cli.console import app, load_settings, print_message
from projkit.cli.migration_progress import MigrationProgress
from projkit.db import migrate as migrations
from projkit.db.connect import require_schema
from projkit.db.errors import DRIVER_ERRORS, describe
from projkit.db.migration_plan import PlannedStep
from projkit.db.migration_plan import plan as plan_migration
from projkit.errors import ConfigurationError


@app.command()
def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Only check whether this version can use the schema.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Only show the steps, what each blocks, and about how long it takes.",
        ),
    ] = False,
    new: Annotated[
        bool,
        typer.Option(
            "--new", help="Create tables even if another schema of the database has the kit's tables."
        ),
    ] = False,
) -> None:
    """Migrate the database to the latest schema, while it is in use. Concurrent runs are safe."""
    settings = load_settings()
    try:
        if check:
            asyncio.run(require_schema(settings, serving=False))
            print_message("this version of projkit can use the schema")
            return
        if plan:
            _print_plan(asyncio.run(plan_migration(settings)))
            return
        with MigrationProgress() as progress:
            revision = asyncio.run(
                migrations.upgrade(
                    settings.database_url,
                    table_prefix=settings.table_prefix,
                    database_schema=settings.database_schema,
                    row_level_security=settings.row_level_security,
                    new=new,
                    progress=progress,
                )
            )
    except DRIVER_ERRORS as error:
        raise ConfigurationError(
            f"PROJKIT_DATABASE_URL: database unavailable ({describe(error)}); check that it is running"
        ) from error
    row_security = ", with row-level security" if settings.row_level_security else ""
    print_message(f"the schema is at revision {revision}{row_security}")


def _print_plan(steps: list[PlannedStep]) -> None:
    if not steps:
        print_message("there is nothing to migrate")
        return
    print_table(
        ("revision", "step", "blocks", "takes about"),
        [(step.revision, step.title, step.locks, _length(step.seconds)) for step in steps],
    )


def _length(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
