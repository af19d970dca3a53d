"""``projkit keys``: making, listing, rotating and retiring the keys that sign tokens."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from projkit.auth import rotation
from projkit.auth.keys_file import keys_path, make_development_keys, new_key, write_keys_file
from projkit.cli.colours import print_table
from projkit.cli.console import app, duration, load_settings, say, time_text
from projkit.clock import utc_now
from projkit.errors import ConfigurationError
from projkit.settings import Settings

keys_app: Final = typer.Typer(help="Make, list, rotate and retire signing keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


class Algorithm(StrEnum):
    """What a key is for (RFC 7518 §3.1, RFC 8037 §3.1)."""

    EDDSA = "EdDSA"
    ES256 = "ES256"
    RS256 = "RS256"
    HS256 = "HS256"


@keys_app.command()
def new(
    alg: Annotated[Algorithm, typer.Option(help="What the key is for.")] = Algorithm.EDDSA,
    file: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Make this file instead of printing; never overwrites."),
    ] = None,
) -> None:
    """Make a first key: a private JWK Set, on standard output or in a file of mode 0600."""
    key = new_key(alg.value)
    if file is None:
        typer.echo(json.dumps({"keys": [key]}, indent=2))
        return
    try:
        written = write_keys_file(file, [key], replace=False)
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from error
    if not written:
        raise ConfigurationError(f"{file} is there already; add a key to it with: projkit keys rotate")
    say(f"made {file}; use it with: PROJKIT_KEYS_FILE={file}")


@keys_app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Show the keys: name, algorithm, when they were made and expire, and which one signs."""
    found = rotation.entries(_file(load_settings()))
    if as_json:
        rows = [
            {
                "kid": entry.kid,
                "alg": entry.algorithm,
                "made_at": time_text(entry.made),
                "expires_at": time_text(entry.expires),
                "state": entry.state,
            }
            for entry in found
        ]
        typer.echo(json.dumps(rows))
        return
    print_table(
        ("kid", "alg", "made", "expires", "state"),
        (
            (each.kid, each.algorithm, time_text(each.made), time_text(each.expires), each.state)
            for each in found
        ),
    )


@keys_app.command()
def rotate(
    alg: Annotated[Algorithm | None, typer.Option(help="By default the present one.")] = None,
) -> None:
    """Add a new key, which signs from now on; the old ones go on verifying, and no server needs a restart."""
    settings = load_settings()
    path = _file(settings)
    key = rotation.rotate(path, None if alg is None else alg.value, development=settings.keys_file is None)
    typer.echo(key.kid)
    wait = max(settings.access_token_seconds, settings.session_idle_seconds)
    say(
        f"it signs from now on; retire the older keys in {path} in {wait / 3600:g} hours with: "
        f"projkit keys retire --older-than {wait}s"
    )


@keys_app.command()
def retire(
    kid: Annotated[str | None, typer.Argument(help="The key's name.")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="All that were replaced by another so long ago: 12h, 30d.")
    ] = None,
) -> None:
    """Remove a key: the tokens that it has signed are refused at once."""
    if (kid is None) == (older_than is None):
        raise typer.BadParameter("name one key, or say --older-than")
    age = None if older_than is None else duration(older_than)
    path = _file(load_settings())
    if kid is not None:
        rotation.retire(path, kid)
        gone = [kid]
    else:
        assert age is not None  # noqa: S101  # one of the two is there
        gone = rotation.retire_replaced(path, utc_now() - age)
    for each in gone:
        typer.echo(each)
    say(f"{len(gone)} of the keys in {path} retired")


def _file(settings: Settings) -> Path:
    path = keys_path(settings)
    if path is None:
        raise ConfigurationError(
            "PROJKIT_SECRET is one key and cannot be rotated; make a file with: projkit keys new --file keys.json, "
            "then unset PROJKIT_SECRET and set PROJKIT_KEYS_FILE=keys.json (users log in once more)"
        )
    if settings.keys_file is None:
        make_development_keys(path)
    return path
