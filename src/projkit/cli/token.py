"""``projkit token`` and ``projkit openapi``."""

import json
from typing import Annotated

import typer

from projkit.auth.keys import load_keys
from projkit.auth.tokens import MAX_SUBJECT_LENGTH, TokenIssuer
from projkit.cli.console import app, duration, load_settings
from projkit.identity import DEFAULT_SCOPES, KNOWN_SCOPES
from projkit.kit import ProjKit


@app.command()
def token(
    subject: Annotated[str, typer.Option(help="Whom the token speaks for; owns the projects made with it.")],
    scopes: Annotated[str, typer.Option(help="Separated by spaces.")] = " ".join(DEFAULT_SCOPES),
    ttl: Annotated[str, typer.Option(help="How long it is good: 90s, 15m, 12h, 1d.")] = "15m",
    tenant: Annotated[str, typer.Option(help="The tenant, where PROJKIT_TENANT_CLAIM is set.")] = "",
) -> None:
    """Print an access token, and nothing else, on standard output."""
    wanted = scopes.split()
    unknown = [scope for scope in wanted if scope not in KNOWN_SCOPES]
    if unknown:
        raise typer.BadParameter(f"unknown scope {unknown[0]}; there are {', '.join(KNOWN_SCOPES)}")
    if not 0 < len(subject) <= MAX_SUBJECT_LENGTH:
        raise typer.BadParameter(f"the subject must have 1 to {MAX_SUBJECT_LENGTH} characters")
    settings = load_settings()
    if bool(tenant) != bool(settings.tenant_claim):
        raise typer.BadParameter("--tenant goes with PROJKIT_TENANT_CLAIM: set both or neither")
    seconds = int(duration(ttl).total_seconds())
    issuer = TokenIssuer(load_keys(settings), settings)
    typer.echo(issuer.issue(subject, wanted, seconds=seconds, tenant_id=tenant))


@app.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document."""
    typer.echo(json.dumps(ProjKit(load_settings()).openapi(), indent=2, ensure_ascii=False))
