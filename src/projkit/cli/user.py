"""``projkit user``: adding, listing, disabling and enabling users, and setting their passwords."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from projkit.auth.passwords import Passwords, check_new_password
from projkit.auth.schemas import Username
from projkit.auth.sessions.port import SessionStore
from projkit.auth.users import User, Users
from projkit.auth.wiring import session_store
from projkit.cli.colours import print_table
from projkit.cli.console import app, load_settings, read_scopes, require_tenant, say, time_text
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.tables import build_tables
from projkit.errors import NotFoundError, ProjkitError, UnavailableError, UsernameTakenError
from projkit.identity import DEFAULT_SCOPES, Principal
from projkit.redis.connect import open_redis
from projkit.settings import Settings

T = TypeVar("T")

user_app: Final = typer.Typer(help="Add, list, disable and enable users.", no_args_is_help=True)
app.add_typer(user_app, name="user")

Name = Annotated[str, typer.Argument(help="The name that the user logs in with.")]
Tenant = Annotated[str, typer.Option(help="The tenant, where PROJKIT_TENANT_CLAIM is set.")]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the commands work with."""

    users: Users
    sessions: SessionStore
    passwords: Passwords


@user_app.command()
def add(
    name: Name,
    subject: Annotated[
        str | None,
        typer.Option(help="Whom the user's tokens speak for; owns the projects. The name by default."),
    ] = None,
    scopes: Annotated[str, typer.Option(help="Separated by spaces.")] = " ".join(DEFAULT_SCOPES),
    tenant: Tenant = "",
) -> None:
    """Add a user; the password is asked for, or read from the first line of standard input."""
    name, wanted = _name(name), read_scopes(scopes)
    subject = name if subject is None else subject
    try:
        Principal(subject, tenant_id=tenant)
    except ValueError as error:
        raise typer.BadParameter(f"--subject or --tenant: {error}") from None
    settings = load_settings()
    require_tenant(settings, tenant)
    password = _new_password(name)

    async def work(parts: Parts) -> User:
        stored = await parts.passwords.hash(password)
        try:
            return await parts.users.add(name, stored, subject=subject, scopes=wanted, tenant_id=tenant)
        except UsernameTakenError:
            raise UsernameTakenError(
                f"There is a user {name}, or one with the subject {subject}, already; "
                "see them with: projkit user list"
            ) from None

    added = _run(settings, work)
    say(f"{added.username} may log in, as the subject {added.subject}")


@user_app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    tenant: Tenant = "",
) -> None:
    """Show all users."""
    settings = load_settings()
    require_tenant(settings, tenant)
    found = _run(settings, lambda parts: parts.users.list(tenant))
    if as_json:
        rows = [
            {
                "username": user.username,
                "subject": user.subject,
                "scopes": list(user.scopes),
                "created_at": time_text(user.created_at),
                "disabled_at": time_text(user.disabled_at),
            }
            for user in found
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    print_table(
        ("name", "subject", "scopes", "since", "disabled"),
        (
            (
                user.username,
                user.subject,
                " ".join(user.scopes),
                time_text(user.created_at),
                time_text(user.disabled_at),
            )
            for user in found
        ),
    )


@user_app.command()
def disable(name: Name, tenant: Tenant = "") -> None:
    """Shut a user out and end all of their sessions, on every server."""
    name, settings = _name(name), load_settings()
    require_tenant(settings, tenant)

    async def work(parts: Parts) -> int:
        user = await _found(parts.users.set_disabled(name, disabled=True, tenant_id=tenant))
        return await _end_sessions(parts, user)

    say(f"{name} is disabled; {_run(settings, work)} sessions ended")


@user_app.command()
def enable(name: Name, tenant: Tenant = "") -> None:
    """Let a disabled user log in again; what was ended stays ended."""
    name, settings = _name(name), load_settings()
    require_tenant(settings, tenant)
    _run(settings, lambda parts: _found(parts.users.set_disabled(name, disabled=False, tenant_id=tenant)))
    say(f"{name} may log in")


@user_app.command()
def password(name: Name, tenant: Tenant = "") -> None:
    """Set a user's password and end all of their sessions, on every server."""
    name, settings = _name(name), load_settings()
    require_tenant(settings, tenant)
    new = _new_password(name)

    async def work(parts: Parts) -> int:
        user = await parts.users.by_name(name, tenant)
        if user is None:
            raise NotFoundError(_ABSENT.format(name=name))
        await parts.users.set_password(user, await parts.passwords.hash(new))
        return await _end_sessions(parts, user)

    say(f"{name} has a new password; {_run(settings, work)} sessions ended")


_ABSENT: Final = "There is no user {name}; see them with: projkit user list"


def _run(settings: Settings, work: Callable[[Parts], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _open(settings) as parts:
            return await work(parts)

    return asyncio.run(run())


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[Parts]:
    tables = build_tables(settings.table_prefix)
    database = await open_database(settings, tables)
    redis = None if settings.redis_url is None else open_redis(settings.redis_url.get_secret_value())
    passwords = Passwords(threads=1)
    try:
        store = session_store(settings, database, tables, redis)
        yield Parts(Users(database, tables, clock=utc_now), store, passwords)
    finally:
        passwords.close()
        if redis is not None:
            await redis.aclose()
        await database.close()


async def _found(change: Awaitable[User]) -> User:
    try:
        return await change
    except NotFoundError as error:
        raise NotFoundError(f"{error.detail}; see them with: projkit user list") from None


async def _end_sessions(parts: Parts, user: User) -> int:
    try:
        return await parts.sessions.revoke_all(user.tenant_id, user.subject)
    except UnavailableError as error:
        # The user cannot log in or refresh any more, but a token that was given before may still be good.
        raise ProjkitError(
            f"the change is made, but the open sessions could not be ended ({error.detail}); run the command again"
        ) from error


def _name(text: str) -> str:
    try:
        return TypeAdapter(Username).validate_python(text)
    except ValidationError:
        raise typer.BadParameter(
            "the name must have 1 to 255 characters, and no control characters"
        ) from None


def _new_password(name: str) -> str:
    if sys.stdin.isatty():
        chosen: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        try:
            chosen = sys.stdin.buffer.readline().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise ProjkitError("The password is not UTF-8") from None
    try:
        check_new_password(chosen, name, "/password")
    except ProjkitError as error:
        raise ProjkitError(f"The password: {error.detail}") from None
    return chosen
