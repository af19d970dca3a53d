"""``/auth`` over HTTP: logging in and out, sessions, passwords, keys."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from projkit.auth.cookies import Cookies
from projkit.auth.credentials import cookie_values
from projkit.auth.csrf import binding_of, session_binding
from projkit.auth.login import Attempt
from projkit.auth.passwords import check_new_password
from projkit.auth.schemas import (
    CsrfValue,
    JsonWebKeySet,
    Login,
    LoginInput,
    PasswordInput,
    RefreshInput,
    Registered,
    RegistrationInput,
    SessionInfo,
    SessionList,
    SessionQuery,
)
from projkit.auth.session_service import Client, IssuedTokens
from projkit.auth.wiring import AuthServices
from projkit.clock import rfc3339
from projkit.errors import (
    AmbiguousCredentialsError,
    FieldError,
    InvalidTokenError,
    NotFoundError,
    UnauthenticatedError,
    ValidationFailedError,
)
from projkit.http.body import validate
from projkit.http.client import ClientAddresses
from projkit.http.query import read_query
from projkit.http.request import Request
from projkit.http.response import JSON_TYPE, PRIVATE, Header, Response, json_response
from projkit.http.routing import Body, Endpoint, Param, ResponseSpec
from projkit.settings import Settings

_SESSION_ID: Final = Param("The id of the session.", "[A-Za-z0-9_-]{43,64}")
_TAG: Final = "auth"
JWKS_PATH: Final = "/.well-known/jwks.json"


class AuthRoutes:
    """The handlers of ``/auth``."""

    def __init__(
        self,
        services: Callable[[], AuthServices],
        settings: Settings,
        cookies: Cookies,
        addresses: ClientAddresses,
    ) -> None:
        self._services = services
        self._settings = settings
        self._cookies = cookies
        self._addresses = addresses
        self._path = f"{settings.api_prefix}/auth"

    def endpoints(self) -> list[Endpoint]:
        """Return the declarations of the endpoints."""
        path = self._path
        login = ResponseSpec("The session and its tokens.", Login, headers=("Set-Cookie",))
        logged_out = ResponseSpec("The session was ended.", headers=("Set-Cookie",))
        refused = ("unauthenticated", "csrf", "rate_limited", "unavailable")
        endpoints = [
            Endpoint(
                method="POST",
                path=f"{path}/login",
                handler=self.login,
                operation_id="logIn",
                summary="Log in with a password",
                tag=_TAG,
                responses={200: login},
                errors=refused,
                public=True,
                body=Body(LoginInput),
                check=self._check_before_login,
            ),
            Endpoint(
                method="POST",
                path=f"{path}/refresh",
                handler=self.refresh,
                operation_id="refreshTokens",
                summary="Refresh tokens",
                tag=_TAG,
                responses={200: login},
                errors=("unauthenticated", "csrf", "unavailable"),
                public=True,
                body=Body(RefreshInput, required=False),
                check=self._check_before_login,
            ),
            Endpoint(
                method="POST",
                path=f"{path}/logout",
                handler=self.logout,
                operation_id="logOut",
                summary="Log out",
                tag=_TAG,
                responses={204: logged_out},
                errors=("unauthenticated", "csrf", "unavailable"),
                public=True,
            ),
            Endpoint(
                method="POST",
                path=f"{path}/logout-all",
                handler=self.logout_all,
                operation_id="logOutEverywhere",
                summary="Log out of all sessions",
                tag=_TAG,
                responses={
                    204: ResponseSpec("All sessions of the user were ended.", headers=("Set-Cookie",))
                },
            ),
            Endpoint(
                method="POST",
                path=f"{path}/password",
                handler=self.password,
                operation_id="changePassword",
                summary="Change the password",
                tag=_TAG,
                responses={
                    204: ResponseSpec("The password was changed. All other sessions of the user were ended.")
                },
                errors=("rate_limited",),
                body=Body(PasswordInput),
            ),
            Endpoint(
                method="GET",
                path=f"{path}/session",
                handler=self.session,
                operation_id="getSession",
                summary="Get the current session",
                tag=_TAG,
                responses={200: ResponseSpec("The current user and session.", SessionInfo)},
            ),
            Endpoint(
                method="GET",
                path=f"{path}/sessions",
                handler=self.sessions,
                operation_id="listSessions",
                summary="List sessions",
                tag=_TAG,
                responses={200: ResponseSpec("A page of the active sessions of the user.", SessionList)},
                errors=("validation",),
                query=SessionQuery,
            ),
            Endpoint(
                method="DELETE",
                path=f"{path}/sessions/{{session_id}}",
                handler=self.end_session,
                operation_id="endSession",
                summary="End a session",
                tag=_TAG,
                responses={204: ResponseSpec("The session was ended.")},
                errors=("not_found",),
                params={"session_id": _SESSION_ID},
            ),
            Endpoint(
                method="GET",
                path=f"{path}/csrf",
                handler=self.csrf,
                operation_id="getCsrfToken",
                summary="Get a CSRF token",
                tag=_TAG,
                responses={
                    200: ResponseSpec(
                        "The token, to be sent in the CSRF header.", CsrfValue, headers=("Set-Cookie",)
                    )
                },
            ),
            *(
                Endpoint(
                    method="GET",
                    path=each,
                    handler=self.jwks,
                    operation_id=f"getKeys{number}",
                    summary="Get the public keys",
                    tag=_TAG,
                    responses={200: ResponseSpec("The keys as a JWK Set (RFC 7517).", JsonWebKeySet)},
                    public=True,
                )
                for each, number in ((f"{path}/jwks", ""), (JWKS_PATH, "AtRoot"))
            ),
        ]
        if self._settings.registration == "open":
            endpoints.append(
                Endpoint(
                    method="POST",
                    path=f"{path}/register",
                    handler=self.register,
                    operation_id="register",
                    summary="Register a user",
                    tag=_TAG,
                    responses={201: ResponseSpec("The user was created.", Registered)},
                    errors=("conflict", "csrf", "rate_limited", "unavailable"),
                    public=True,
                    body=Body(RegistrationInput),
                    check=self._check_before_login,
                )
            )
        return endpoints

    async def login(self, request: Request, raw: Any) -> Response:
        services = self._services()
        content = validate(LoginInput, raw)
        device = _one(cookie_values(request.scope["headers"], self._cookies.names.device.encode()))
        issued, device_token = await services.login.log_in(
            Attempt(
                content.username,
                content.password,
                self._tenant(content.tenant),
                content.transport,
                self._client(request),
                device,
                request.release_slot,
                request.watch_client,
            )
        )
        more = [] if device_token is None else [self._cookies.device(request, device_token)]
        return self._tokens_response(request, issued, more)

    async def refresh(self, request: Request, raw: Any) -> Response:
        services = self._services()
        text = validate(RefreshInput, raw).refresh_token
        if text is None:
            text = self._refresh_cookie(request)
            if text is None:
                raise UnauthenticatedError("Send the refresh token, in the body or in its cookie")
            await services.authenticator.guard(request, services.sessions.binding_of_refresh(text))
        return self._tokens_response(request, await services.sessions.refresh(text), [])

    async def logout(self, request: Request) -> Response:
        services = self._services()
        try:
            credential, principal = await services.authenticator.identify(request)
        except AmbiguousCredentialsError:
            raise
        except UnauthenticatedError as error:
            if b"authorization" in request.headers:
                raise  # the rejected header is the credential that decides; cookies are not touched
            return await self._logout_by_refresh_cookie(request, services, error)
        if credential.is_cookie:
            await services.authenticator.guard(request, binding_of(principal))
        if principal.session_id is not None:
            with suppress(NotFoundError):  # it has just been ended from somewhere else
                await services.sessions.end(principal, principal.session_id)
        else:
            await services.revocation.revoke_token(principal, credential.token)
        return self._logged_out(request)

    async def logout_all(self, request: Request) -> Response:
        services, principal = self._services(), request.principal
        await services.end_all(principal.subject, principal.tenant_id)
        return self._logged_out(request)

    async def password(self, request: Request, raw: Any) -> Response:
        services = self._services()
        content = validate(PasswordInput, raw)
        check_new_password(content.new_password, request.principal.subject, "/new_password")
        await services.built_in.change_password(request.principal, content.old_password, content.new_password)
        services.revocation.clear_cache()
        return Response(204, headers=PRIVATE)

    async def register(self, request: Request, raw: Any) -> Response:
        services = self._services()
        content = validate(RegistrationInput, raw)
        check_new_password(content.password, content.username, "/password")
        user = await services.built_in.register(
            content.username,
            content.password,
            self._tenant(content.tenant),
            self._addresses.get(request.scope),
        )
        return json_response(201, {"subject": user.subject, "username": user.username}, PRIVATE)

    async def session(self, request: Request) -> Response:
        principal = request.principal
        expires = principal.claims.get("exp")
        content = {
            "subject": principal.subject,
            "scopes": sorted(principal.scopes),
            "session_id": principal.session_id,
            "token_format": principal.token_format,
            "expires_at": None if expires is None else rfc3339(datetime.fromtimestamp(expires, UTC)),
        }
        return json_response(200, content, PRIVATE)

    async def sessions(self, request: Request) -> Response:
        query = read_query(SessionQuery, request.query_string, repeatable=frozenset())
        page = await self._services().sessions.list(request.principal, limit=query.limit, cursor=query.cursor)
        items = [
            {
                "id": listing.id,
                "current": listing.id == request.principal.session_id,
                "transport": listing.session.transport,
                "user_agent": listing.session.user_agent,
                "address": listing.session.address,
                "created_at": rfc3339(listing.session.created_at),
                "used_at": rfc3339(listing.session.used_at),
                "expires_at": rfc3339(listing.session.expires_at),
            }
            for listing in page.items
        ]
        return json_response(200, {"items": items, "next_cursor": page.next_cursor}, PRIVATE)

    async def end_session(self, request: Request) -> Response:
        await self._services().sessions.end(request.principal, request.params["session_id"])
        return Response(204, headers=PRIVATE)

    async def csrf(self, request: Request) -> Response:
        value = self._services().csrf.issue(binding_of(request.principal))
        cookie = self._cookies.csrf(request, value, self._settings.session_idle_seconds)
        return json_response(200, {"csrf_token": value}, (*PRIVATE, cookie))

    async def jwks(self, _: Request) -> Response:
        keys = self._services().keys.current.public()
        return Response(
            200, orjson.dumps({"keys": keys}), (JSON_TYPE, (b"cache-control", b"public, max-age=300"))
        )

    def _check_before_login(self, request: Request) -> None:
        self._services().csrf.check_before_login(request)

    async def _logout_by_refresh_cookie(
        self, request: Request, services: AuthServices, refused: UnauthenticatedError
    ) -> Response:
        """Log out by the refresh cookie, which still names the session if the access cookie is missing or invalid."""
        text = self._refresh_cookie(request)
        if text is None:
            if isinstance(refused, InvalidTokenError):
                services.csrf.check_origin(request)
                for name, value in self._cookies.logout(request):
                    request.add_response_header(name, value)
            raise refused
        shown = services.sessions.read_refresh_token(text)
        await services.authenticator.guard(request, session_binding(shown.session_id))
        await services.sessions.end_by_refresh_token(text)
        return self._logged_out(request)

    def _refresh_cookie(self, request: Request) -> str | None:
        values = cookie_values(request.scope["headers"], self._cookies.names.refresh.encode())
        if len(values) > 1:
            raise AmbiguousCredentialsError
        return _one(values)

    def _tokens_response(self, request: Request, issued: IssuedTokens, more: list[Header]) -> Response:
        content = {
            "access_token": issued.access_token,
            "token_type": "Bearer",
            "expires_in": issued.expires_in,
            "refresh_token": issued.refresh_token,
            "refresh_expires_in": issued.refresh_expires_in,
            "csrf_token": issued.csrf_token,
            "session_id": issued.session_id,
        }
        if issued.transport == "cookie":
            del content["access_token"], content["refresh_token"]
        return json_response(200, content, (*PRIVATE, *self._cookies.login(request, issued), *more))

    def _logged_out(self, request: Request) -> Response:
        return Response(204, headers=(*PRIVATE, *self._cookies.logout(request)))

    def _client(self, request: Request) -> Client:
        return Client(self._addresses.get(request.scope), request.header(b"user-agent") or "")

    def _tenant(self, tenant: str) -> str:
        if bool(tenant) == bool(self._settings.tenant_claim):
            return tenant
        detail = (
            "A tenant is required"
            if self._settings.tenant_claim
            else "Must be omitted: there is a single tenant"
        )
        raise ValidationFailedError([FieldError("tenant", detail, pointer="/tenant")])


def _one(values: list[bytes]) -> str | None:
    return values[0].decode("latin-1") if len(values) == 1 and values[0] else None
