"""Helpers that all commands share: the typer app, messages, settings, durations."""

import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import typer

from projkit.clock import rfc3339
from projkit.identity import KNOWN_SCOPES
from projkit.settings import Settings, describe_unknown_variables

app: Final = typer.Typer(
    help="A projects API for any ASGI application, configured by PROJKIT_* environment variables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>[smhd])")
_MAX_DURATION: Final = timedelta(days=36_500)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def print_error(message: str) -> None:
    """Print an error to standard error."""
    from projkit.cli.colours import err

    err.print("[red]failed:[/red]", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def print_message(message: str) -> None:
    """Print a message to standard error."""
    typer.echo(message, err=True)


def print_warning(message: str) -> None:
    """Print a warning to standard error."""
    print_message(f"warning: {message}")


def load_settings(warn: Callable[[str], None] = print_warning) -> Settings:
    """Read the settings, and pass a warning for each unknown ``PROJKIT_`` variable to ``warn``."""
    for warning in describe_unknown_variables(os.environ, Settings.model_fields):
        warn(warning)
    settings = Settings()
    settings.require_servers()
    return settings


def read_scopes(text: str) -> list[str]:
    """Split scopes that are separated by spaces or commas.

    Raises:
        typer.BadParameter: a scope is unknown.
    """
    scopes = text.replace(",", " ").split()
    unknown = [scope for scope in scopes if scope not in KNOWN_SCOPES]
    if unknown:
        raise typer.BadParameter(f"unknown scope {unknown[0]}; the scopes are {', '.join(KNOWN_SCOPES)}")
    return scopes


def require_tenant(settings: Settings, tenant: str) -> None:
    """Require ``--tenant`` if and only if PROJKIT_TENANT_CLAIM is set.

    Raises:
        typer.BadParameter: only one of them is set.
    """
    if bool(tenant) != bool(settings.tenant_claim):
        raise typer.BadParameter(
            "--tenant requires PROJKIT_TENANT_CLAIM, and vice versa: set both or neither"
        )


def time_text(moment: datetime | None) -> str | None:
    """Format an optional time as RFC 3339 in UTC, to the second."""
    return None if moment is None else rfc3339(moment, timespec="seconds")


def duration(text: str) -> timedelta:
    """Parse a duration such as 90s, 15m, 12h or 30d.

    Raises:
        typer.BadParameter: the text is not a duration, or longer than 36500d.
    """
    match = _DURATION.fullmatch(text)
    if match is None or int(match["number"]) == 0:
        raise typer.BadParameter("must be a number followed by s, m, h or d, such as 15m or 30d")
    try:
        length = timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
    except OverflowError:
        length = timedelta.max
    if length > _MAX_DURATION:
        raise typer.BadParameter("must be at most 36500d")
    return length
