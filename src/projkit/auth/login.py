"""Login with user name and password: the kit's own users, or the host's."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from projkit.auth.limits import LoginLimits
from projkit.auth.passwords import Passwords, check_new_password
from projkit.auth.session_service import Client, IssuedTokens, SessionService, Transport
from projkit.auth.users import User, Users, folded_name, username_key
from projkit.errors import InvalidCredentialsError, UnavailableError
from projkit.host_deadlines import WatchClient
from projkit.identity import DEFAULT_SCOPES, Principal, Rejected
from projkit.observers import Observer, record_failed_login

# The host's own check: returns the principal; if name or password is wrong, None, or Rejected to name the account.
HostLoginResult = Principal | Rejected | None
# Takes the username, the password, and ``watch``.
AwaitableLogin = Callable[..., Awaitable[HostLoginResult]]
HostLogin = Callable[[str, str], "HostLoginResult | Awaitable[HostLoginResult]"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to log in; ``device`` is the device token of the browser, if it has one.

    ``before_waiting`` is called after the attempt has been counted and before a call that may take long. ``watch`` ends
    that call if the client disconnects; the attempt remains counted.
    """

    username: str
    password: str
    tenant_id: str
    transport: Transport
    client: Client
    device: str | None
    before_waiting: Callable[[], None]
    watch: WatchClient

    @property
    def account(self) -> str:
        """The account under which failures are counted."""
        return account_of(self.tenant_id, self.username)


class LoginService(Protocol):
    """A login with user name and password."""

    async def log_in(self, attempt: Attempt) -> tuple[IssuedTokens, str | None]:
        """Log in; return the tokens of a new session and a new device token.

        Raises:
            InvalidCredentialsError: name or password is wrong, or the user is disabled (not disclosed which).
            RateLimitedError: there were too many attempts.
            UnavailableError: a store does not respond.
        """


class CountedLogin:
    """A login service that counts the outcomes of another one."""

    def __init__(self, login: LoginService, observer: Observer) -> None:
        self._login = login
        self._observer = observer

    async def log_in(self, attempt: Attempt) -> tuple[IssuedTokens, str | None]:
        with record_failed_login(self._observer, "password"):
            result = await self._login.log_in(attempt)
        self._observer.record_login("password", "succeeded")
        return result


class HostUsers:
    """Login of the host's users, with the host's ``authenticate``.

    A host may find one account under several names. Failures are therefore counted twice: before the password is
    verified, under the name without case, accents and spaces; and afterwards, under the account that the host names.
    Beyond the limit, a correct password gets the same response as a wrong one.
    """

    def __init__(
        self,
        authenticate: AwaitableLogin,
        users: Users,
        sessions: SessionService,
        limits: LoginLimits,
    ) -> None:
        self._authenticate = authenticate
        self._users = users
        self._sessions = sessions
        self.limits = limits

    async def log_in(self, attempt: Attempt) -> tuple[IssuedTokens, str | None]:
        began = self._sessions.now()
        await self.limits.attempt(attempt.client.address)
        name = counted_name(attempt.tenant_id, attempt.username)
        folded = counted_name(attempt.tenant_id, folded_name(attempt.username) or attempt.username)
        count = await self.limits.begin(folded, attempt.device, name=name)
        attempt.before_waiting()
        result = _checked(await self._authenticate(attempt.username, attempt.password, watch=attempt.watch))
        if result is None:
            raise InvalidCredentialsError
        account = f"subject:{counted_name(result.tenant_id, result.subject)}"
        known = await self._users.by_subject(result.subject, result.tenant_id)
        # The host assigns the tenant; the one in the request is only a claim.
        is_foreign = result.tenant_id != attempt.tenant_id
        is_disabled = known is not None and known.disabled_at is not None
        if isinstance(result, Rejected) or is_foreign or is_disabled:
            await self.limits.fail(account, count)
            raise InvalidCredentialsError
        await self.limits.require_open(account, count)
        await self.limits.succeed(count)
        issued = await self._sessions.open(
            result.subject,
            sorted(result.scopes),
            result.tenant_id,
            attempt.transport,
            attempt.client,
            known=known,
            since=began,
        )
        return issued, self.limits.new_device_token(name)


class BuiltInUsers:
    """Login of the users in the kit's own table."""

    def __init__(
        self, users: Users, passwords: Passwords, sessions: SessionService, limits: LoginLimits
    ) -> None:
        self.users = users
        self._passwords = passwords
        self._sessions = sessions
        self.limits = limits

    async def log_in(self, attempt: Attempt) -> tuple[IssuedTokens, str | None]:
        await self.limits.attempt(attempt.client.address)
        count = await self.limits.begin(attempt.account, attempt.device)
        user = await self.users.by_name(attempt.username, attempt.tenant_id)
        stored = None if user is None or user.disabled_at is not None else user.password_hash
        if not await self._passwords.verify(stored, attempt.password) or user is None or stored is None:
            raise InvalidCredentialsError
        await self.limits.succeed(count)
        if self._passwords.is_outdated(stored):
            await self.users.rehash(user, await self._passwords.hash(attempt.password))
        issued = await self._sessions.open(
            user.subject, user.scopes, user.tenant_id, attempt.transport, attempt.client, known=user
        )
        return issued, self.limits.new_device_token(attempt.account)

    async def register(self, username: str, password: str, tenant_id: str, address: str) -> User:
        """Create a user with the default scopes and a new subject.

        Raises:
            UsernameTakenError: another user has the name.
            RateLimitedError: there were too many attempts from the address.
        """
        await self.limits.attempt(address)
        stored = await self._passwords.hash(password)
        return await self.users.add(
            username, stored, subject=str(uuid4()), scopes=DEFAULT_SCOPES, tenant_id=tenant_id
        )

    async def change_password(self, principal: Principal, old: str, new: str) -> None:
        """Set a new password, end all other sessions and revoke tokens without a session.

        Raises:
            InvalidCredentialsError: ``old`` is not the current password, or the principal has none here.
            ValidationFailedError: ``new`` is not allowed.
            RateLimitedError: there were too many attempts.
            UnavailableError: a store does not respond; the password is unchanged, unless the error says otherwise.
        """
        user = await self.users.by_subject(principal.subject, principal.tenant_id)
        name = principal.subject if user is None or user.username is None else user.username
        count = await self.limits.begin(f"password:{account_of(principal.tenant_id, name)}", None)
        if (
            not await self._passwords.verify(None if user is None else user.password_hash, old)
            or user is None
        ):
            raise InvalidCredentialsError("The current password is wrong")
        await self.limits.succeed(count)
        check_new_password(new, name, "/new_password")
        stored = await self._passwords.hash(new)
        # Once before, so the password is not changed if sessions cannot be ended, and once after, since the old
        # password was valid for logins until then.
        await self._end_others(principal)
        await self.users.set_password(user, stored, keep=self._sessions.kept(principal.session_id))
        try:
            await self._end_others(principal)
        except UnavailableError as error:
            raise UnavailableError(
                "The password was changed, but a session opened at the same moment may still be active; "
                "log out everywhere to end it"
            ) from error

    async def _end_others(self, principal: Principal) -> None:
        await self._sessions.end_all(principal.tenant_id, principal.subject, keep=principal.session_id)


def _checked(result: object) -> HostLoginResult:
    """Return the result of the host's ``authenticate``.

    Raises:
        TypeError: it is something else, such as a user object or True.
    """
    if result is None or isinstance(result, Principal | Rejected):
        return result
    raise TypeError(f"authenticate must return a Principal, Rejected or None, not {type(result).__name__}")


def account_of(tenant_id: str, username: str) -> str:
    """Return the name under which attempts on an account of the kit are counted."""
    return counted_name(tenant_id, username_key(username))


def counted_name(tenant_id: str, name: str) -> str:
    """Return ``name`` within its tenant."""
    return f"{len(tenant_id)}:{tenant_id}:{name}"
