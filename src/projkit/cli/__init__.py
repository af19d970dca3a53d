"""The command line: ``projkit --help``."""

import sys
import warnings
from typing import Annotated

import typer

from projkit import __version__
from projkit.cli import assets, check, database, keys, purge, serve, token, transfer, user
from projkit.cli.console import app, failed
from projkit.errors import ProjkitError
from projkit.settings import UnknownSettingWarning

__all__ = ["assets", "check", "database", "keys", "main", "purge", "serve", "token", "transfer", "user"]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"projkit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A projects API for any ASGI application. Settings are read from PROJKIT_* variables."""


def main() -> None:
    """Runs a command; exit codes: 0 good, 1 failed, 2 wrong usage."""
    warnings.simplefilter("ignore", UnknownSettingWarning)  # each command shows them in its own words
    try:
        app()
    except ProjkitError as error:
        failed(error.detail)
        sys.exit(1)
