"""``projkit keys``: create, list, rotate and retire the keys that sign tokens."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from projkit.auth import rotation
from projkit.auth.keys_file import keys_path, make_development_keys, new_key, write_keys_file
from projkit.cli.colours import print_table
from projkit.cli.console import app, duration, load_settings, print_message, time_text
from projkit.clock import utc_now
from projkit.errors import ConfigurationError
from projkit.settings import Settings

keys_app: Final = typer.Typer(help="Create, list, rotate and retire signing keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


class Algorithm(StrEnum):
    """The signature algorithm of a key (RFC 7518 §3.1, RFC 8037 §3.1)."""

    EDDSA = "EdDSA"
    ES256 = "ES256"
    RS256 = "RS256"
    HS256 = "HS256"


@keys_app.command()
def new(
    alg: Annotated[Algorithm, typer.Option(help="The signature algorithm.")] = Algorithm.EDDSA,
    file: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Create this file instead of printing; an existing file is never overwritten.",
        ),
    ] = None,
) -> None:
    """Create a first key as a private JWK Set, on standard output or in a file with mode 0600."""
    key = new_key(alg.value)
    if file is None:
        typer.echo(json.dumps({"keys": [key]}, indent=2))
        return
    try:
        written = write_keys_file(file, [key], replace=False)
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from error
    if not written:
        raise ConfigurationError(f"{file} already exists; add a key to it with: projkit keys rotate")
    print_message(f"created {file}; use it with: PROJKIT_KEYS_FILE={file}")


@keys_app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the keys: id, algorithm, creation and expiry times, and which one signs."""
    entries = rotation.entries(_keys_file(load_settings()))
    if as_json:
        rows = [
            {
                "kid": entry.kid,
                "alg": entry.algorithm,
                "made_at": time_text(entry.made),
                "expires_at": time_text(entry.expires),
                "state": entry.state,
            }
            for entry in entries
        ]
        typer.echo(json.dumps(rows))
        return
    print_table(
        ("kid", "alg", "created", "expires", "state"),
        (
            (each.kid, each.algorithm, time_text(each.made), time_text(each.expires), each.state)
            for each in entries
        ),
    )


@keys_app.command()
def rotate(
    alg: Annotated[
        Algorithm | None, typer.Option(help="The signature algorithm; by default that of the current key.")
    ] = None,
) -> None:
    """Add a new signing key. The old keys still verify, and running servers load it without a restart."""
    settings = load_settings()
    path = _keys_file(settings)
    key = rotation.rotate(path, None if alg is None else alg.value, development=settings.keys_file is None)
    typer.echo(key.kid)
    wait = max(settings.access_token_seconds, settings.session_idle_seconds)
    print_message(
        f"the new key signs from now on; retire the older keys in {path} in {wait / 3600:g} hours with: "
        f"projkit keys retire --older-than {wait}s"
    )


@keys_app.command()
def retire(
    kid: Annotated[str | None, typer.Argument(help="The id of the key.")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Retire all keys that were replaced this long ago, such as 12h or 30d.")
    ] = None,
) -> None:
    """Remove a key. Tokens that it signed are rejected at once."""
    if (kid is None) == (older_than is None):
        raise typer.BadParameter("give either a key id or --older-than")
    age = None if older_than is None else duration(older_than)
    path = _keys_file(load_settings())
    if kid is not None:
        rotation.retire(path, kid)
        retired = [kid]
    else:
        assert age is not None  # noqa: S101  # checked above
        retired = rotation.retire_replaced(path, utc_now() - age)
    for each in retired:
        typer.echo(each)
    print_message(f"{len(retired)} keys in {path} retired")


def _keys_file(settings: Settings) -> Path:
    path = keys_path(settings)
    if path is None:
        raise ConfigurationError(
            "PROJKIT_SECRET is a single key and cannot be rotated; create a file with: "
            "projkit keys new --file keys.json, then unset PROJKIT_SECRET and set PROJKIT_KEYS_FILE=keys.json "
            "(users have to log in again)"
        )
    if settings.keys_file is None:
        make_development_keys(path)
    return path
