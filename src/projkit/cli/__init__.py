"""The command line: ``projkit --help``."""

import sys
import warnings

from projkit.cli import database, serve, token, transfer
from projkit.cli.console import app, failed
from projkit.errors import ProjkitError
from projkit.settings import UnknownSettingWarning

__all__ = ["database", "main", "serve", "token", "transfer"]


def main() -> None:
    """Runs a command; exit codes: 0 good, 1 failed, 2 wrong usage."""
    warnings.simplefilter("ignore", UnknownSettingWarning)  # each command shows them in its own words
    try:
        app()
    except ProjkitError as error:
        failed(error.detail)
        sys.exit(1)
