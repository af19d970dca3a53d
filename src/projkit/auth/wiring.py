"""Construction of the parts of authentication, for one event loop."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from projkit.auth.attempt_counter import AttemptCounter, DatabaseAttemptCounter
from projkit.auth.authenticator import Authenticator
from projkit.auth.credentials import CookieNames, CredentialReader
from projkit.auth.csrf import LABEL as CSRF_LABEL
from projkit.auth.csrf import AwaitableCsrfCheck, CsrfGuard
from projkit.auth.host_validity import AwaitableStillValid, HostValidity
from projkit.auth.keys import KeyRing
from projkit.auth.legacy import LegacyProfile
from projkit.auth.limits import DEVICE_LABEL, KnownDevices, LoginLimits
from projkit.auth.login import AwaitableLogin, BuiltInUsers, CountedLogin, HostUsers, LoginService
from projkit.auth.oidc.login import OidcLogin
from projkit.auth.oidc.wiring import Providers, build_login
from projkit.auth.passwords import Passwords
from projkit.auth.refresh import LABEL as REFRESH_LABEL
from projkit.auth.revocation import RevocationChecker
from projkit.auth.session_service import CURSOR_LABEL, SESSION_LABEL, SessionService
from projkit.auth.sessions.cached import CachedSessions
from projkit.auth.sessions.database import DatabaseSessions
from projkit.auth.sessions.port import SessionStore
from projkit.auth.tokens import TokenIssuer, TokenVerifier
from projkit.auth.users import Users
from projkit.clock import Clock
from projkit.db.port import Database
from projkit.db.tables import Tables
from projkit.observers import NULL_OBSERVER, Observer
from projkit.settings import Settings

if TYPE_CHECKING:
    from projkit.redis.connect import RedisClient

logger: Final = logging.getLogger("projkit.auth")

_NO_CACHE: Final = 0.0


@dataclass(frozen=True, slots=True)
class AuthServices:
    """The authentication services of one event loop."""

    authenticator: Authenticator
    login: LoginService
    built_in: BuiltInUsers
    oidc: OidcLogin
    sessions: SessionService
    revocation: RevocationChecker
    csrf: CsrfGuard
    keys: KeyRing
    issuer: TokenIssuer
    verifier: TokenVerifier
    store: SessionStore
    users: Users
    passwords: Passwords
    providers: Providers
    validity: HostValidity | None

    async def end_all(self, subject: str, tenant_id: str, *, keep: str | None = None) -> int:
        """End all access of a subject except the session with the id ``keep``; return the number of ended sessions.

        Raises:
            UnavailableError: a store does not respond.
        """
        # The database first: it also revokes tokens without a session, and its record outlives the loss of a Redis.
        await self.users.end_tokens(subject, tenant_id, keep=self.sessions.kept(keep))
        ended = await self.sessions.end_all(tenant_id, subject, keep=keep)
        self.revocation.clear_cache()
        if self.validity is not None:
            self.validity.forget(subject, tenant_id)
        logger.info("all access of the subject %r was ended, with %d sessions", subject, ended)
        return ended

    async def close(self) -> None:
        """Close what was opened here, but not the connections of the stores, which belong to the kit."""
        if self.validity is not None:
            self.validity.close()
        self.passwords.close()
        await self.providers.close()


def cookie_names(settings: Settings) -> CookieNames:
    """Return the names of the kit's cookies."""
    return CookieNames(host_prefix=settings.cookie_host_prefix, csrf=settings.csrf_cookie_name)


def session_store(
    settings: Settings,
    database: Database,
    tables: Tables,
    redis: "RedisClient | None",
    observer: Observer = NULL_OBSERVER,
) -> SessionStore:
    """Return the session store: Redis if there is one, unless SESSION_STORE is ``database``."""
    if redis is None or settings.session_store == "database":
        return DatabaseSessions(database, tables)
    from projkit.auth.sessions.redis import RedisSessions  # noqa: PLC0415 - and redis-py, 8 MiB

    return RedisSessions(redis, prefix=settings.redis_prefix, observer=observer)


def build_auth(
    settings: Settings,
    keys: KeyRing,
    database: Database,
    tables: Tables,
    redis: "RedisClient | None",
    *,
    clock: Clock,
    observer: Observer,
    authenticate: AwaitableLogin | None = None,
    csrf_check: AwaitableCsrfCheck | None = None,
    still_valid: AwaitableStillValid | None = None,
) -> AuthServices:
    """Build all services of authentication; sessions are in ``redis`` if given, unless SESSION_STORE overrides it."""
    names = cookie_names(settings)
    store = session_store(settings, database, tables, redis, observer)
    counter: AttemptCounter
    if redis is not None and not isinstance(store, DatabaseSessions):
        from projkit.auth.redis_attempt_counter import RedisAttemptCounter  # noqa: PLC0415 - and redis-py, 8 MiB

        # A look-up costs a round trip; with the cache, another worker's revocation takes effect within a second.
        cache_seconds = settings.session_cache_seconds
        if cache_seconds:
            store = CachedSessions(store, seconds=cache_seconds)
        counter = RedisAttemptCounter(redis, prefix=settings.redis_prefix, observer=observer)
    else:
        cache_seconds = _NO_CACHE
        counter = DatabaseAttemptCounter(database, tables, clock=clock)
    users = Users(database, tables, clock=clock)
    legacy = LegacyProfile(settings)
    issuer = TokenIssuer(keys, settings)
    verifier = TokenVerifier(keys, settings, legacy=legacy)
    csrf = CsrfGuard(
        settings, partial(keys.secrets, CSRF_LABEL), names, observer=observer, own_check=csrf_check
    )
    revocation = RevocationChecker(
        store, users, idle_seconds=settings.session_idle_seconds, cache_seconds=cache_seconds, clock=clock
    )
    validity = None
    if still_valid is not None:
        validity = HostValidity(
            still_valid,
            cache_seconds=settings.still_valid_cache_seconds,
            with_tenant=bool(settings.tenant_claim),
        )
    sessions = SessionService(
        settings,
        store,
        users,
        issuer,
        csrf,
        refresh_keys=partial(keys.secrets, REFRESH_LABEL),
        session_keys=partial(keys.secrets, SESSION_LABEL),
        cursor_keys=partial(keys.secrets, CURSOR_LABEL),
        clock=clock,
        observer=observer,
        validity=validity,
    )
    limits = LoginLimits(settings, counter, KnownDevices(partial(keys.secrets, DEVICE_LABEL)))
    passwords = Passwords()
    built_in = BuiltInUsers(users, passwords, sessions, limits)
    login: LoginService = built_in
    if authenticate is not None:
        login = HostUsers(authenticate, users, sessions, limits)
    providers = Providers(settings)
    oidc = build_login(
        settings, providers, keys, users, sessions, store, limits, clock=clock, observer=observer
    )
    authenticator = Authenticator(
        CredentialReader(names),
        verifier,
        revocation.check,
        csrf,
        legacy,
        observer,
        external=providers.external(),
        validity=validity,
    )
    return AuthServices(
        authenticator=authenticator,
        login=CountedLogin(login, observer),
        built_in=built_in,
        oidc=oidc,
        sessions=sessions,
        revocation=revocation,
        csrf=csrf,
        keys=keys,
        issuer=issuer,
        verifier=verifier,
        store=store,
        users=users,
        passwords=passwords,
        providers=providers,
        validity=validity,
    )
