"""What all commands share: the typer app, plain lines, settings, durations."""

import os
import re
from datetime import datetime, timedelta
from typing import Final

import typer

from projkit.clock import rfc3339
from projkit.identity import KNOWN_SCOPES
from projkit.settings import Settings, unknown_variables

app: Final = typer.Typer(
    help="A projects API for any ASGI application. Settings are read from PROJKIT_* variables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>[smhd])")
_LONGEST: Final = timedelta(days=36_500)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def failed(message: str) -> None:
    """Says on standard error what went wrong."""
    from projkit.cli.colours import err

    err.print("[red]failed:[/red]", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Says on standard error what was done."""
    typer.echo(message, err=True)


def load_settings() -> Settings:
    """The settings, with a warning for each variable that none of them reads."""
    for name, nearest in unknown_variables(os.environ, Settings.model_fields):
        hint = f"; did you mean {nearest}?" if nearest else ""
        say(f"warning: {name} is not a setting of projkit{hint}")
    return Settings()


def read_scopes(text: str) -> list[str]:
    """The scopes named in ``text``, separated by spaces or commas."""
    scopes = text.replace(",", " ").split()
    unknown = [scope for scope in scopes if scope not in KNOWN_SCOPES]
    if unknown:
        raise typer.BadParameter(f"unknown scope {unknown[0]}; there are {', '.join(KNOWN_SCOPES)}")
    return scopes


def require_tenant(settings: Settings, tenant: str) -> None:
    """A tenant must be named where there are several, and only there."""
    if bool(tenant) != bool(settings.tenant_claim):
        raise typer.BadParameter("--tenant goes with PROJKIT_TENANT_CLAIM: set both or neither")


def time_text(moment: datetime | None) -> str | None:
    """Format an optional time as RFC 3339 in UTC, to the second."""
    return None if moment is None else rfc3339(moment, timespec="seconds")


def duration(text: str) -> timedelta:
    """A duration such as 90s, 15m, 12h or 30d."""
    match = _DURATION.fullmatch(text)
    if match is None or int(match["number"]) == 0:
        raise typer.BadParameter("must be a number with s, m, h or d, as in 15m or 30d")
    try:
        found = timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
    except OverflowError:
        found = timedelta.max
    if found > _LONGEST:
        raise typer.BadParameter("must be at most 36500d")
    return found
