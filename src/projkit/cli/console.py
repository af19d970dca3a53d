"""What all commands share: the typer app, the consoles, durations."""

import os
import re
from datetime import timedelta
from typing import Final

import typer
from rich.console import Console

from projkit.settings import Settings, unknown_variables

app: Final = typer.Typer(
    help="A projects API for any ASGI application. Settings are read from PROJKIT_* variables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out: Final = Console()
err: Final = Console(stderr=True)

_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>[smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def failed(message: str) -> None:
    """Says on standard error what went wrong."""
    err.print("[red]failed:[/red]", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def load_settings() -> Settings:
    """The settings, with a warning for each variable that none of them reads."""
    for name, nearest in unknown_variables(os.environ):
        hint = f"; did you mean {nearest}?" if nearest else ""
        err.print(f"warning: {name} is not a setting of projkit{hint}", markup=False, soft_wrap=True)
    return Settings()


def duration(text: str) -> timedelta:
    """A duration such as 90s, 15m, 12h or 30d."""
    match = _DURATION.fullmatch(text)
    if match is None or int(match["number"]) == 0:
        raise typer.BadParameter("must be a number with s, m, h or d, as in 15m or 30d")
    try:
        return timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
    except OverflowError:
        raise typer.BadParameter("is too long") from None
