"""Middleware that guards the host's own HTTP and WebSocket routes with the kit's credentials.

``AuthMiddleware(app, kit, rules={"/": PUBLIC, "/reports": ("projects:read",)})`` around the whole app sees every path
before the app does. Caller and scopes are then in ``scope["user"]`` and ``scope["auth"]``.
"""

from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send

from projkit.auth.connection import (
    Authenticates,
    authenticate_once,
    authorize,
    pop_response_headers,
    request_of,
    set_user,
)
from projkit.auth.rules import PUBLIC, SELF_GUARDED, PathRules, Rules
from projkit.errors import ProjkitError
from projkit.http.denial import deny
from projkit.http.problem import problem_response, unhandled

__all__ = ["PUBLIC", "SELF_GUARDED", "AuthMiddleware"]

_NO_RULES: Final[PathRules] = MappingProxyType({})
_RESPONSE_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


class AuthMiddleware:
    """ASGI middleware that passes a request on to the host if its caller is authorized.

    Args:
        app: the host, or any of its ASGI apps.
        kit: the kit that authenticates.
        rules: the requirements of path prefixes: scopes, ``()`` for any authenticated caller, :data:`PUBLIC`, or
            :data:`SELF_GUARDED` for an app with guards of its own, such as a mounted kit. The longest matching prefix
            applies; other paths require an authenticated caller.

    Raises:
        ConfigurationError: a rule is invalid.
    """

    def __init__(
        self,
        app: Callable[[Any, Any, Any], Awaitable[Any]],
        kit: Authenticates,
        *,
        rules: PathRules = _NO_RULES,
    ) -> None:
        self._app = app
        self._kit = kit
        self._rules = Rules(rules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] not in {"http", "websocket"}:
            # Deny by default: scope types of future ASGI versions do not bypass the guard.
            raise NotImplementedError(f"AuthMiddleware does not know the scope {scope['type']!r}")
        needed = self._rules.needed(scope)
        if needed is SELF_GUARDED:
            await self._app(scope, receive, send)
            return
        try:
            result = await authenticate_once(self._kit, scope)
            user = result.user if needed is PUBLIC else authorize(result, needed)
        except Exception as error:  # deny by default, whatever fails
            await self._refuse(error, scope, receive, send)
            return
        set_user(scope, user)
        await self._app(scope, receive, _with_headers(scope, send))

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._kit.request_ids.get(scope)
        request = request_of(scope, request_id.decode())
        answer = (
            problem_response(error, request) if isinstance(error, ProjkitError) else unhandled(error, request)
        )
        more = [*pop_response_headers(scope), (b"x-request-id", request_id)]
        await deny(answer, scope, receive, send, more=more)


def _with_headers(scope: Scope, send: Send) -> Send:
    """Return a ``send`` that adds the headers of authentication, such as ``Deprecation``, to the response."""
    more = pop_response_headers(scope)
    if not more:
        return send

    async def send_with_headers(message: Message) -> None:
        if message["type"] in _RESPONSE_STARTS:
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return send_with_headers
