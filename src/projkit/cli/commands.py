"""The registry of commands. `serve` is imported alone, because a server keeps everything it imports in memory."""

import logging
import sys
import warnings
from importlib import import_module
from typing import Annotated, Final

import typer

from projkit.cli.console import app, print_error
from projkit.errors import ProjkitError
from projkit.settings import UnknownSettingWarning
from projkit.version import __version__

_MODULES: Final = ("assets", "check", "database", "keys", "purge", "serve", "token", "transfer", "user")
# The commands that are imported without the others.
_IMPORTED_ALONE: Final = ("serve",)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"projkit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Define the global options."""


def _report(message: str, *, is_server: bool) -> None:
    """Print an error, or log it if a server is to write JSON."""
    if is_server:
        from projkit.cli.logs import configure_early_logging

        if configure_early_logging():
            logging.getLogger("projkit").critical("%s", message)
            return
    print_error(message)


def run() -> None:
    """Run the command in ``sys.argv``; the exit code is 0 on success, 1 on failure and 2 for a usage error."""
    named = [name for name in sys.argv[1:2] if name in _IMPORTED_ALONE]
    for name in named or _MODULES:
        import_module(f"projkit.cli.{name}")
    warnings.simplefilter("ignore", UnknownSettingWarning)  # load_settings prints them instead
    try:
        app()
    except ProjkitError as error:
        _report(error.detail, is_server="serve" in named)
        sys.exit(1)
