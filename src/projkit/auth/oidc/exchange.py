"""The two steps of the code flow at the provider (RFC 6749 §4.1, RFC 7636), through authlib."""

import asyncio
import base64
import logging
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.client import OAuth2Client

from projkit.auth.oidc.error_code import error_code
from projkit.auth.oidc.fetch import Fetcher
from projkit.auth.oidc.login_state import LoginState
from projkit.auth.oidc.provider import Metadata
from projkit.errors import LoginFailedError, ProviderUnavailableError
from projkit.http import strict_json
from projkit.settings import OidcProvider

logger: Final = logging.getLogger("projkit")


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The tokens that a code was exchanged for."""

    id_token: str
    access_token: str | None


class CodeFlow:
    """The authorization code flow with PKCE at one provider."""

    def __init__(self, config: OidcProvider, redirect_uri: str, fetcher: Fetcher) -> None:
        self._client_id = config.client_id
        self._secret = None if config.client_secret is None else config.client_secret.get_secret_value()
        self._scope = " ".join(dict.fromkeys(("openid", *config.scopes)))
        self._redirect_uri = redirect_uri
        self._fetcher = fetcher

    def authorization_url(self, metadata: Metadata, login_state: LoginState) -> str:
        """Return the URL of the authorization request.

        Raises:
            ProviderUnavailableError: the metadata has no usable endpoints.
        """
        if not metadata.authorization_endpoint or not metadata.token_endpoint:
            logger.warning(
                "OIDC provider %s has no usable authorization_endpoint and token_endpoint", metadata.issuer
            )
            raise ProviderUnavailableError
        client = OAuth2Client(
            None,
            client_id=self._client_id,
            redirect_uri=self._redirect_uri,
            scope=self._scope,
            code_challenge_method="S256",
        )
        url, _ = client.create_authorization_url(
            metadata.authorization_endpoint,
            state=login_state.state,
            code_verifier=login_state.verifier,
            nonce=login_state.nonce,
        )
        return str(url)

    async def exchange(self, metadata: Metadata, code: str, login_state: LoginState) -> Exchanged:
        """Exchange the code for tokens.

        Raises:
            LoginFailedError: the provider rejects the code, or its response has no ID token.
            ProviderUnavailableError: the provider does not respond.
        """
        try:
            async with asyncio.timeout(self._fetcher.seconds), self._client(metadata) as client:
                answer: dict[str, Any] = await client.fetch_token(
                    metadata.token_endpoint,
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=login_state.verifier,
                )
        except OAuthError as error:
            logger.warning("OIDC provider %s rejected the code: %s", metadata.issuer, error_code(error.error))
            raise LoginFailedError from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            logger.warning(
                "OIDC token endpoint %s unavailable: %s",
                metadata.token_endpoint,
                str(error) or type(error).__name__,
            )
            raise ProviderUnavailableError from None
        except (ValueError, TypeError, OverflowError) as error:
            logger.warning(
                "OIDC token endpoint %s returned invalid data: %s",
                metadata.token_endpoint,
                type(error).__name__,
            )
            raise LoginFailedError from None
        id_token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(id_token, str):
            logger.warning("OIDC provider %s returned no ID token", metadata.issuer)
            raise LoginFailedError
        return Exchanged(id_token, access_token if isinstance(access_token, str) else None)

    def _client(self, metadata: Metadata) -> AsyncOAuth2Client:
        # A new client for each exchange, since it stores the tokens that it receives.
        client = AsyncOAuth2Client(
            client_id=self._client_id,
            client_secret=self._secret,
            token_endpoint_auth_method=self._auth_method(metadata),
            redirect_uri=self._redirect_uri,
            **self._fetcher.options,
        )
        client.register_client_auth_method(("client_secret_basic", _basic))
        client.register_compliance_hook("access_token_response", _check)
        return client

    def _auth_method(self, metadata: Metadata) -> str:
        if self._secret is None:
            return "none"
        methods = metadata.auth_methods
        posts = "client_secret_post" in methods and "client_secret_basic" not in methods
        return "client_secret_post" if posts else "client_secret_basic"


def _basic(client: Any, _method: str, uri: str, headers: Any, body: bytes) -> tuple[str, Any, bytes]:
    # authlib does not encode them, which RFC 6749 §2.3.1 requires.
    pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
    headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return uri, headers, body


def _check(response: httpx2.Response) -> httpx2.Response:
    """Check a response before authlib parses it: a server error is not a rejection, and JSON must be strict."""
    if response.status_code >= 500 or response.status_code == 429 or response.is_redirect:
        raise httpx2.HTTPStatusError(
            f"status {response.status_code}", request=response.request, response=response
        )
    strict_json.loads(response.content)
    return response
