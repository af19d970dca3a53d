"""Construction of the parts of OpenID Connect, for one event loop."""

from functools import partial
from typing import TYPE_CHECKING

from projkit.auth.keys import KeyRing
from projkit.auth.limits import LoginLimits
from projkit.auth.oidc.idtoken import IdTokens
from projkit.auth.oidc.login import ConfiguredProvider, OidcLogin
from projkit.auth.oidc.login_state import LABEL, LoginStateCodec
from projkit.auth.oidc.provider import Provider
from projkit.auth.oidc.resource import ExternalTokens
from projkit.auth.session_service import SessionService
from projkit.auth.sessions.port import SessionStore
from projkit.auth.users import Users
from projkit.clock import Clock
from projkit.observers import Observer
from projkit.settings import Settings

if TYPE_CHECKING:
    from projkit.auth.oidc.fetch import Fetcher


class Providers:
    """The configured providers, one per issuer; without any, no certificates are loaded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        issuers = {each.issuer for each in settings.oidc_providers.values()} | {
            settings.oidc_resource_issuer
        } - {""}
        self._fetcher = _fetcher() if issuers else None
        self._by_issuer = (
            {} if self._fetcher is None else {each: Provider(each, self._fetcher) for each in issuers}
        )

    def configured(self) -> dict[str, ConfiguredProvider]:
        """Return the providers that users can log in with, by name."""
        if self._fetcher is None:
            return {}
        from projkit.auth.oidc.exchange import CodeFlow  # noqa: PLC0415 - as above

        settings, configured = self._settings, {}
        for name, config in settings.oidc_providers.items():
            redirect_uri = f"{settings.public_url}{settings.api_prefix}/auth/oidc/{name}/callback"
            provider = self._by_issuer[config.issuer]
            flow = CodeFlow(config, redirect_uri, self._fetcher)
            configured[name] = ConfiguredProvider(config, provider, flow, IdTokens(provider))
        return configured

    def external(self) -> ExternalTokens | None:
        """Return the verifier of OIDC_RESOURCE_ISSUER's access tokens, or None if the setting is empty."""
        issuer = self._settings.oidc_resource_issuer
        return ExternalTokens(self._by_issuer[issuer], self._settings) if issuer else None

    async def close(self) -> None:
        """Cancel fetches that are in progress."""
        for each in self._by_issuer.values():
            await each.close()


def _fetcher() -> "Fetcher":
    # The HTTP client is imported only if there is a provider, and then at startup.
    from projkit.auth.oidc.fetch import Fetcher  # noqa: PLC0415

    return Fetcher()


def build_login(
    settings: Settings,
    providers: Providers,
    keys: KeyRing,
    users: Users,
    sessions: SessionService,
    store: SessionStore,
    limits: LoginLimits,
    *,
    clock: Clock,
    observer: Observer,
) -> OidcLogin:
    """Build the login service for these providers."""
    return OidcLogin(
        providers.configured(),
        LoginStateCodec(partial(keys.secrets, LABEL), clock=clock),
        users,
        sessions,
        store,
        limits,
        tenant_claim=settings.tenant_claim,
        clock=clock,
        observer=observer,
    )
