"""The rules of a login at a provider. No HTTP."""

import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from projkit.auth.limits import LoginLimits
from projkit.auth.oidc.error_code import error_code
from projkit.auth.oidc.idtoken import Expected, IdTokens
from projkit.auth.oidc.login_state import LoginState, LoginStateCodec
from projkit.auth.oidc.provider import Metadata, Provider
from projkit.auth.session_service import Client, IssuedTokens, SessionService
from projkit.auth.sessions.port import SessionStore
from projkit.auth.tokens import tenant_of
from projkit.auth.users import User, Users
from projkit.clock import Clock
from projkit.errors import InvalidCredentialsError, InvalidTokenError, LoginFailedError, NotFoundError
from projkit.observers import Observer, record_failed_login
from projkit.settings import OidcProvider

if TYPE_CHECKING:
    from projkit.auth.oidc.exchange import CodeFlow

logger: Final = logging.getLogger("projkit")

_METHOD: Final = "oidc"


@dataclass(frozen=True, slots=True)
class ConfiguredProvider:
    """A provider that users can log in with: its settings, metadata and keys, and the clients for it."""

    config: OidcProvider
    provider: Provider
    flow: "CodeFlow"
    id_tokens: IdTokens


@dataclass(frozen=True, slots=True)
class AuthorizationRedirect:
    """The redirect to the provider, and the cookie value with the login state."""

    location: str
    cookie: str


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """The authorization response in the callback's query (RFC 6749 §4.1.2, RFC 9207 §2)."""

    state: str | None
    code: str | None
    issuer: str | None
    error: str | None


class OidcLogin:
    """The login service for OpenID providers."""

    def __init__(
        self,
        configured: Mapping[str, ConfiguredProvider],
        login_states: LoginStateCodec,
        users: Users,
        sessions: SessionService,
        store: SessionStore,
        limits: LoginLimits,
        *,
        tenant_claim: str,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._configured = configured
        self.login_states = login_states
        self._users = users
        self._sessions = sessions
        self._store = store
        self._limits = limits
        self._tenant_claim = tenant_claim
        self._clock = clock
        self._observer = observer

    async def start(self, name: str, next_path: str) -> AuthorizationRedirect:
        """Start a login; ``next_path`` is the path to redirect to after it.

        Raises:
            NotFoundError: there is no such provider.
            ProviderUnavailableError: the provider does not respond.
        """
        configured = self._provider(name)
        metadata = await configured.provider.metadata()
        text, login_state = self.login_states.start(name, next_path)
        return AuthorizationRedirect(configured.flow.authorization_url(metadata, login_state), text)

    def read_login_state(self, name: str, text: str | None, state: str | None) -> LoginState:
        """Return the login that this browser started at this provider with this ``state``.

        Raises:
            NotFoundError: there is no such provider.
            LoginFailedError: there is no such login.
        """
        self._provider(name)
        with record_failed_login(self._observer, _METHOD):
            if text is None or state is None:
                raise LoginFailedError
            login_state = self.login_states.decode(text)
            if login_state.provider != name or not hmac.compare_digest(
                login_state.state.encode(), state.encode()
            ):
                raise LoginFailedError
        return login_state

    async def finish(
        self,
        login_state: LoginState,
        response: AuthorizationResponse,
        client: Client,
        *,
        before_waiting: Callable[[], None],
    ) -> IssuedTokens:
        """Finish a login and open a session.

        ``before_waiting`` is called after the attempt has been counted, before the requests to the provider.

        Raises:
            LoginFailedError: the response is invalid or was used before, or the user is disabled.
            RateLimitedError: there were too many attempts.
            UnavailableError: the provider or a store does not respond.
        """
        configured = self._provider(login_state.provider)
        with record_failed_login(self._observer, _METHOD):
            issued = await self._finish(configured, login_state, response, client, before_waiting)
        self._observer.record_login(_METHOD, "succeeded")
        return issued

    async def _finish(
        self,
        configured: ConfiguredProvider,
        login_state: LoginState,
        response: AuthorizationResponse,
        client: Client,
        before_waiting: Callable[[], None],
    ) -> IssuedTokens:
        await self._limits.attempt(client.address)
        if not await self._store.consume(login_state.state, self._clock(), login_state.expires_at):
            raise LoginFailedError
        before_waiting()
        metadata = await configured.provider.metadata()
        code = _code(metadata, response)
        exchanged = await configured.flow.exchange(metadata, code, login_state)
        expected = Expected(configured.config.client_id, login_state.nonce, exchanged.access_token)
        try:
            claims = await configured.id_tokens.verify(exchanged.id_token, expected)
            tenant_id = tenant_of(claims, self._tenant_claim)
        except InvalidTokenError as error:
            logger.warning("ID token of OIDC provider %s is invalid: %s", metadata.issuer, error.detail)
            raise LoginFailedError from None
        user = await self._user(configured.config, str(claims["sub"]), tenant_id)
        return await self._open(user, client)

    async def _user(self, config: OidcProvider, issuer_subject: str, tenant_id: str) -> User:
        # Never linked by e-mail address: a user could claim any address at some provider and take over its account.
        known = await self._users.by_identity(config.issuer, issuer_subject, tenant_id)
        if known is not None:
            return known
        return await self._users.add_identity(
            config.issuer, issuer_subject, subject=str(uuid4()), scopes=config.granted, tenant_id=tenant_id
        )

    async def _open(self, user: User, client: Client) -> IssuedTokens:
        if user.disabled_at is not None:
            raise LoginFailedError
        try:
            return await self._sessions.open(
                user.subject, user.scopes, user.tenant_id, "cookie", client, known=user
            )
        except InvalidCredentialsError:  # disabled, or tokens revoked, at the same moment
            raise LoginFailedError from None

    def _provider(self, name: str) -> ConfiguredProvider:
        configured = self._configured.get(name)
        if configured is None:
            raise NotFoundError
        return configured


def _code(metadata: Metadata, response: AuthorizationResponse) -> str:
    """Return the code of a response after checking its issuer (RFC 9207 §2.4)."""
    absent = response.issuer is None
    if (absent and metadata.sends_issuer) or (not absent and response.issuer != metadata.issuer):
        logger.warning("authorization response has a wrong or missing iss, expected %s", metadata.issuer)
        raise LoginFailedError
    if response.error is not None:
        logger.info("OIDC provider %s denied the login: %s", metadata.issuer, error_code(response.error))
        raise LoginFailedError
    if not response.code:
        raise LoginFailedError
    return response.code
