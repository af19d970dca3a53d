"""Logging in at a provider: the rules, and no HTTP of ours."""

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
class Started:
    """Where the browser goes, and what it keeps."""

    location: str
    login_state: str


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """What the browser brings back (RFC 6749 §4.1.2, RFC 9207 §2)."""

    state: str | None
    code: str | None
    issuer: str | None
    error: str | None


class OidcLogin:
    """Starts logins and finishes them."""

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
        self._login_states = login_states
        self._users = users
        self._sessions = sessions
        self._store = store
        self._limits = limits
        self._tenant_claim = tenant_claim
        self._clock = clock
        self._observer = observer

    async def start(self, name: str, next_path: str) -> Started:
        """The first step; ``next_path`` is where the browser goes in the end.

        Raises:
            NotFoundError: there is no such provider.
            ProviderUnavailableError: it does not answer.
        """
        configured = self._of(name)
        metadata = await configured.provider.metadata()
        text, login_state = self._login_states.start(name, next_path)
        return Started(configured.flow.authorization_url(metadata, login_state), text)

    def recognise(self, name: str, text: str | None, state: str | None) -> LoginState:
        """The login that comes back: started by this browser, at this provider, and with this very state.

        Raises:
            NotFoundError: there is no such provider.
            LoginFailedError: nothing of the kind was started here.
        """
        self._of(name)
        with record_failed_login(self._observer, _METHOD):
            if text is None or state is None:
                raise LoginFailedError
            login_state = self._login_states.decode(text)
            if login_state.provider != name or not hmac.compare_digest(
                login_state.state.encode(), state.encode()
            ):
                raise LoginFailedError
        return login_state

    async def finish(
        self,
        login_state: LoginState,
        answer: ProviderAnswer,
        client: Client,
        *,
        before_waiting: Callable[[], None],
    ) -> IssuedTokens:
        """A new session for whoever the provider says it is.

        ``before_waiting`` is called once the attempt has been counted, before the provider is asked.

        Raises:
            LoginFailedError: it says nothing of the kind, it was said before, or the user is shut out.
            RateLimitedError: there were too many attempts.
            UnavailableError: the provider or a store does not answer.
        """
        configured = self._of(login_state.provider)
        with record_failed_login(self._observer, _METHOD):
            issued = await self._finish(configured, login_state, answer, client, before_waiting)
        self._observer.record_login(_METHOD, "succeeded")
        return issued

    async def _finish(
        self,
        configured: ConfiguredProvider,
        login_state: LoginState,
        answer: ProviderAnswer,
        client: Client,
        before_waiting: Callable[[], None],
    ) -> IssuedTokens:
        await self._limits.attempt(client.address)
        if not await self._store.consume(login_state.state, self._clock(), login_state.expires_at):
            raise LoginFailedError
        before_waiting()
        metadata = await configured.provider.metadata()
        code = _code(metadata, answer)
        exchanged = await configured.flow.exchange(metadata, code, login_state)
        expected = Expected(configured.config.client_id, login_state.nonce, exchanged.access_token)
        try:
            claims = await configured.id_tokens.verify(exchanged.id_token, expected)
            tenant_id = tenant_of(claims, self._tenant_claim)
        except InvalidTokenError as error:
            logger.warning("an id token of %s is refused: %s", metadata.issuer, error.detail)
            raise LoginFailedError from None
        user = await self._user(configured.config, str(claims["sub"]), tenant_id)
        return await self._open(user, client)

    async def _user(self, config: OidcProvider, issuer_subject: str, tenant_id: str) -> User:
        # An e-mail address is never looked at: whoever can claim one at some provider would get its account here.
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
        except InvalidCredentialsError:  # disabled, or told to log in anew, while we looked
            raise LoginFailedError from None

    def _of(self, name: str) -> ConfiguredProvider:
        configured = self._configured.get(name)
        if configured is None:
            raise NotFoundError
        return configured


def _code(metadata: Metadata, answer: ProviderAnswer) -> str:
    """The code of an answer that comes from the right provider (RFC 9207 §2.4)."""
    absent = answer.issuer is None
    if (absent and metadata.sends_issuer) or (not absent and answer.issuer != metadata.issuer):
        logger.warning("an answer claims to be from another provider than %s", metadata.issuer)
        raise LoginFailedError
    if answer.error is not None:
        logger.info("%s lets nobody in: %s", metadata.issuer, error_code(answer.error))
        raise LoginFailedError
    if not answer.code:
        raise LoginFailedError
    return answer.code
