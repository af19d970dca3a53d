"""The endpoints below ``/auth/oidc``: redirect to the provider, and the callback."""

import re
from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import parse_qsl, quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from projkit.auth.cookies import Cookies
from projkit.auth.credentials import cookie_values
from projkit.auth.oidc.login import AuthorizationResponse
from projkit.auth.oidc.login_state import LIFETIME_SECONDS
from projkit.auth.session_service import Client
from projkit.auth.wiring import AuthServices
from projkit.errors import LoginFailedError
from projkit.http.client import ClientAddresses
from projkit.http.query import read_query
from projkit.http.request import Request
from projkit.http.response import PRIVATE, Header, Response
from projkit.http.routing import Endpoint, Param, ResponseSpec
from projkit.settings import Settings

_TAG: Final = "auth"
_PROVIDER: Final = Param("The name of the provider in `PROJKIT_OIDC_PROVIDERS`.", "[a-z0-9_-]{1,32}")
_MAX_NEXT_LENGTH: Final = 1024
_MAX_PARAMETERS: Final = 50
# Browsers treat // and /\ as the start of a host, and remove tabs and line breaks first.
_RELATIVE: Final = re.compile(r"/(?!/)[^\\\x00-\x1f\x7f-\x9f]*")
_SAFE: Final = "/:@!$&'()*+,;=-._~?%#[]"  # characters that need no encoding in a URL (RFC 3986 §2.2)


def _relative(value: str) -> str:
    path = value.partition("?")[0].partition("#")[0]
    encoded = quote(value, safe=_SAFE)
    if not _RELATIVE.fullmatch(value) or "//" in path or len(encoded) > _MAX_NEXT_LENGTH:
        raise PydanticCustomError("not_relative", "Must be a path on this site, as in /projects")
    return encoded


class LoginQuery(BaseModel):
    """The query parameters of the start of a login."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    next: Annotated[str, AfterValidator(_relative)] = Field(
        default="/", description="The path on this site to redirect to after the login."
    )


class CallbackQuery(BaseModel):
    """The authorization response (RFC 6749 §4.1.2, RFC 9207 §2); other parameters are ignored."""

    state: str | None = Field(default=None, description="The `state` of the authorization request.")
    code: str | None = Field(default=None, description="The authorization code.")
    iss: str | None = Field(default=None, description="The issuer identifier of the provider.")
    error: str | None = Field(default=None, description="The error code of a failed authorization.")


class OidcRoutes:
    """The handlers of ``/auth/oidc``.

    Args:
        services: returns the services of the running event loop.
        settings: the settings of the kit.
        cookies: creates the cookies.
        addresses: determines client addresses.
    """

    def __init__(
        self,
        services: Callable[[], AuthServices],
        settings: Settings,
        cookies: Cookies,
        addresses: ClientAddresses,
    ) -> None:
        self._services = services
        self._cookies = cookies
        self._cookie = cookies.names.login.encode()
        self._addresses = addresses
        self._path = f"{settings.api_prefix}/auth/oidc/{{provider}}"

    def endpoints(self) -> list[Endpoint]:
        """Return the declarations of the endpoints."""
        headers = ("Location", "Set-Cookie")
        return [
            Endpoint(
                method="GET",
                path=f"{self._path}/login",
                handler=self.login,
                operation_id="startOidcLogin",
                summary="Start an OpenID Connect login",
                tag=_TAG,
                responses={302: ResponseSpec("Redirect to the provider.", headers=headers)},
                errors=("not_found", "validation", "unavailable"),
                public=True,
                query=LoginQuery,
                params={"provider": _PROVIDER},
            ),
            Endpoint(
                method="GET",
                path=f"{self._path}/callback",
                handler=self.callback,
                operation_id="finishOidcLogin",
                summary="Complete an OpenID Connect login",
                tag=_TAG,
                responses={
                    303: ResponseSpec(
                        "The session was created. Redirect to the requested page.", headers=headers
                    )
                },
                errors=("not_found", "unauthenticated", "rate_limited", "unavailable"),
                public=True,
                query=CallbackQuery,
                params={"provider": _PROVIDER},
            ),
        ]

    async def login(self, request: Request) -> Response:
        query = read_query(LoginQuery, request.query_string, repeatable=frozenset())
        request.release_slot()  # concurrent logins share one fetch, which takes seconds if the provider hangs
        redirect = await self._services().oidc.start(request.params["provider"], query.next)
        cookie = self._cookies.login_state(request, redirect.cookie, LIFETIME_SECONDS)
        return Response(302, headers=(_location(redirect.location), *PRIVATE, cookie))

    async def callback(self, request: Request) -> Response:
        login = self._services().oidc
        kept = cookie_values(request.scope["headers"], self._cookie)
        text = kept[0].decode("latin-1") if len(kept) == 1 else None
        response = _read_response(request.query_string)
        login_state = login.read_login_state(request.params["provider"], text, response.state)
        # From here on the login state is used up, whatever the outcome.
        request.add_response_header(*self._cookies.login_state(request, "", 0))
        client = Client(self._addresses.get(request.scope), request.header(b"user-agent") or "")
        issued = await login.finish(login_state, response, client, before_waiting=request.release_slot)
        return Response(
            303, headers=(_location(login_state.next), *PRIVATE, *self._cookies.login(request, issued))
        )


def _read_response(query_string: bytes) -> AuthorizationResponse:
    """Parse the query; a repeated parameter is an error (RFC 6749 §3.1)."""
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_PARAMETERS,
        )
    except ValueError:
        raise LoginFailedError from None
    known = [pair for pair in pairs if pair[0] in CallbackQuery.model_fields]
    values = dict(known)
    if len(values) != len(known):
        raise LoginFailedError
    return AuthorizationResponse(
        values.get("state"), values.get("code"), values.get("iss"), values.get("error")
    )


def _location(url: str) -> Header:
    return b"location", url.encode("ascii")
