"""``projkit token`` and ``projkit openapi``."""

import json
from typing import Annotated

import typer

from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer
from projkit.cli.console import app, duration, load_settings, read_scopes, require_tenant
from projkit.identity import DEFAULT_SCOPES, MAX_SUBJECT_LENGTH
from projkit.kit import ProjKit


@app.command()
def token(
    subject: Annotated[
        str, typer.Option(help="The subject of the token, which owns the projects created with it.")
    ],
    scopes: Annotated[str, typer.Option(help="The scopes, separated by spaces.")] = " ".join(DEFAULT_SCOPES),
    ttl: Annotated[str, typer.Option(help="The lifetime, such as 90s, 15m, 12h or 1d.")] = "15m",
    tenant: Annotated[str, typer.Option(help="The tenant; required if PROJKIT_TENANT_CLAIM is set.")] = "",
) -> None:
    """Print an access token, and nothing else, to standard output."""
    wanted = read_scopes(scopes)
    if not 0 < len(subject) <= MAX_SUBJECT_LENGTH:
        raise typer.BadParameter(f"the subject must have 1 to {MAX_SUBJECT_LENGTH} characters")
    settings = load_settings()
    require_tenant(settings, tenant)
    seconds = int(duration(ttl).total_seconds())
    issuer = TokenIssuer(load_keys(settings), settings)
    typer.echo(issuer.issue(subject, wanted, seconds=seconds, tenant_id=tenant))


@app.command()
def openapi(
    path_prefix: Annotated[str, typer.Option(help="Precedes each path; the mount, such as /kit.")] = "",
    name_prefix: Annotated[
        str, typer.Option(help="Precedes the names of components, operations and tags, such as kit_.")
    ] = "",
) -> None:
    """Print the OpenAPI 3.1 document."""
    kit = ProjKit(load_settings())
    try:
        document = kit.openapi(path_prefix, name_prefix=name_prefix)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
