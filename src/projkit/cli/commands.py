"""The commands. One that is named is imported alone, since a server would hold what the others import for good."""

import sys
import warnings
from importlib import import_module
from typing import Annotated, Final

import typer

from projkit.cli.console import app, failed
from projkit.errors import ProjkitError
from projkit.settings import UnknownSettingWarning
from projkit.version import __version__

_MODULES: Final = ("assets", "check", "database", "keys", "purge", "serve", "token", "transfer", "user")
# All others are only worth a second when somebody waits for them.
_ALONE: Final = ("serve",)


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


def run() -> None:
    """Runs the command that the arguments name; exit codes: 0 good, 1 failed, 2 wrong usage."""
    named = [name for name in sys.argv[1:2] if name in _ALONE]
    for name in named or _MODULES:
        import_module(f"projkit.cli.{name}")
    warnings.simplefilter("ignore", UnknownSettingWarning)  # each command shows them in its own words
    try:
        app()
    except ProjkitError as error:
        failed(error.detail)
        sys.exit(1)
