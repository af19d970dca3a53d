"""Guards the host's own routes with the kit's credentials, over HTTP and for WebSockets.

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
_ANSWER_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


class AuthMiddleware:
    """Lets a request through to the host if its caller may make it.

    Args:
        app: the host, or any ASGI app of its.
        kit: whose credentials are taken.
        rules: what the paths below a prefix need: scopes, ``()`` for any signed-in caller, :data:`PUBLIC`, or
            :data:`SELF_GUARDED` for what guards itself, such as a kit that the host mounts. The longest prefix wins;
            what none of them names needs a signed-in caller.

    Raises:
        ConfigurationError: a rule is none.
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
            # What nobody knows yet is not let past the guard.
            raise NotImplementedError(f"AuthMiddleware does not know the scope {scope['type']!r}")
        needed = self._rules.needed(scope)
        if needed is SELF_GUARDED:
            await self._app(scope, receive, send)
            return
        try:
            result = await authenticate_once(self._kit, scope)
            user = result.user if needed is PUBLIC else authorize(result, needed)
        except Exception as error:  # whatever goes wrong, nobody gets in
            await self._refuse(error, scope, receive, send)
            return
        set_user(scope, user)
        await self._app(scope, receive, _telling(scope, send))

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._kit.request_ids.get(scope)
        request = request_of(scope, request_id.decode())
        answer = (
            problem_response(error, request) if isinstance(error, ProjkitError) else unhandled(error, request)
        )
        more = [*pop_response_headers(scope), (b"x-request-id", request_id)]
        await deny(answer, scope, receive, send, more=more)


def _telling(scope: Scope, send: Send) -> Send:
    """Adds to the host's answer what a legacy token's client is to be told (RFC 9745, RFC 8594)."""
    more = pop_response_headers(scope)
    if not more:
        return send

    async def telling(message: Message) -> None:
        if message["type"] in _ANSWER_STARTS:
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return telling
