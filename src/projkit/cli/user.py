"""``projkit user``: add, list, disable and enable users, and set their passwords."""

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
from projkit.cli.console import app, load_settings, print_message, read_scopes, require_tenant, time_text
from projkit.clock import utc_now
from projkit.db.connect import opened_database
from projkit.errors import NotFoundError, ProjkitError, UnavailableError, UsernameTakenError
from projkit.identity import DEFAULT_SCOPES, Principal
from projkit.redis.connect import close_redis, open_redis
from projkit.settings import Settings

T = TypeVar("T")

user_app: Final = typer.Typer(
    help="Add, list, disable and enable users, and set their passwords.", no_args_is_help=True
)
app.add_typer(user_app, name="user")

Name = Annotated[str, typer.Argument(help="The username.")]
Tenant = Annotated[str, typer.Option(help="The tenant; required if PROJKIT_TENANT_CLAIM is set.")]


@dataclass(frozen=True, slots=True)
class Services:
    """The services that the commands use."""

    users: Users
    sessions: SessionStore
    passwords: Passwords


@user_app.command()
def add(
    name: Name,
    subject: Annotated[
        str | None,
        typer.Option(
            help="The subject of the user's tokens, which owns the user's projects; the username by default."
        ),
    ] = None,
    scopes: Annotated[str, typer.Option(help="The scopes, separated by spaces.")] = " ".join(DEFAULT_SCOPES),
    tenant: Tenant = "",
) -> None:
    """Add a user. Prompts for the password, or reads it from the first line of standard input."""
    name, wanted = _name(name), read_scopes(scopes)
    subject = name if subject is None else subject
    try:
        Principal(subject, tenant_id=tenant)
    except ValueError as error:
        raise typer.BadParameter(f"--subject or --tenant: {error}") from None
    settings = load_settings()
    require_tenant(settings, tenant)
    password = _new_password(name)

    async def work(services: Services) -> User:
        password_hash = await services.passwords.hash(password)
        try:
            return await services.users.add(
                name, password_hash, subject=subject, scopes=wanted, tenant_id=tenant
            )
        except UsernameTakenError:
            raise UsernameTakenError(
                f"a user named {name} or with the subject {subject} already exists; "
                "list users with: projkit user list"
            ) from None

    added = _run(settings, work)
    print_message(f"added {added.username} with the subject {added.subject}")


@user_app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    tenant: Tenant = "",
) -> None:
    """List all users."""
    settings = load_settings()
    require_tenant(settings, tenant)
    users = _run(settings, lambda services: services.users.list(tenant))
    if as_json:
        rows = [
            {
                "username": user.username,
                "subject": user.subject,
                "scopes": list(user.scopes),
                "created_at": time_text(user.created_at),
                "disabled_at": time_text(user.disabled_at),
            }
            for user in users
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
            for user in users
        ),
    )


@user_app.command()
def disable(name: Name, tenant: Tenant = "") -> None:
    """Disable a user and end all of their sessions, on every server."""
    name, settings = _name(name), load_settings()
    require_tenant(settings, tenant)

    async def work(services: Services) -> int:
        user = await _require_user(services.users.set_disabled(name, disabled=True, tenant_id=tenant))
        return await _end_sessions(services, user)

    print_message(f"disabled {name}; {_run(settings, work)} sessions ended")


@user_app.command()
def enable(name: Name, tenant: Tenant = "") -> None:
    """Enable a disabled user. Ended sessions are not restored."""
    name, settings = _name(name), load_settings()
    require_tenant(settings, tenant)
    _run(
        settings,
        lambda services: _require_user(services.users.set_disabled(name, disabled=False, tenant_id=tenant)),
    )
    print_message(f"enabled {name}")


@user_app.command()
def password(name: Name, tenant: Tenant = "") -> None:
    """Set a user's password and end all of their sessions, on every server."""
    name, settings = _name(name), load_settings()
    require_tenant(settings, tenant)
    new = _new_password(name)

    async def work(services: Services) -> int:
        user = await services.users.by_name(name, tenant)
        if user is None:
            raise NotFoundError(_USER_NOT_FOUND.format(name=name))
        await services.users.set_password(user, await services.passwords.hash(new))
        return await _end_sessions(services, user)

    print_message(f"changed the password of {name}; {_run(settings, work)} sessions ended")


_USER_NOT_FOUND: Final = "There is no user {name}; list users with: projkit user list"


def _run(settings: Settings, work: Callable[[Services], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _open(settings) as services:
            return await work(services)

    return asyncio.run(run())


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[Services]:
    async with opened_database(settings) as (database, tables):
        redis = None if settings.redis_url is None else open_redis(settings.redis_url.get_secret_value())
        passwords = Passwords(threads=1)
        try:
            store = session_store(settings, database, tables, redis)
            yield Services(Users(database, tables, clock=utc_now), store, passwords)
        finally:
            passwords.close()
            if redis is not None:
                await close_redis(redis)


async def _require_user(change: Awaitable[User]) -> User:
    try:
        return await change
    except NotFoundError as error:
        raise NotFoundError(f"{error.detail}; list users with: projkit user list") from None


async def _end_sessions(services: Services, user: User) -> int:
    try:
        return await services.sessions.revoke_all(user.tenant_id, user.subject)
    except UnavailableError as error:
        # The user can no longer log in or refresh, but an existing access token can still be valid.
        raise ProjkitError(
            f"the user was changed, but their sessions could not be ended ({error.detail}); run the command again"
        ) from error


def _name(text: str) -> str:
    try:
        return TypeAdapter(Username).validate_python(text)
    except ValidationError:
        raise typer.BadParameter("the name must have 1 to 255 characters and no control characters") from None


def _new_password(name: str) -> str:
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        try:
            password = sys.stdin.buffer.readline().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise ProjkitError("the password is not valid UTF-8") from None
    try:
        check_new_password(password, name, "/password")
    except ProjkitError as error:
        raise ProjkitError(f"invalid password: {error.detail}") from None
    return password
