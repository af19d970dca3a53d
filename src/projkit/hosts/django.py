"""In Django: ``request.principal``, and ``@require_scopes("projects:read")`` on views, sync and async.

``settings.PROJKIT_KIT`` is the kit, or the dotted path of one: ``"mysite.asgi.kit"``. Both need Django to be served
over ASGI, as the kit itself does.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final, TypeVar

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, resolve
from django.utils.module_loading import import_string
from starlette.types import Scope

from projkit.auth.connection import (
    Authenticates,
    AuthResult,
    authenticate_once,
    authorize,
    cached_result,
    pop_response_headers,
    request_of,
    set_user,
)
from projkit.errors import ProjkitError
from projkit.http.problem import problem_response
from projkit.http.response import NO_SNIFF
from projkit.http.timing import UNKNOWN_ROUTE

_LONGEST_ROUTE: Final = 200
_SETTING: Final = "PROJKIT_KIT"
F = TypeVar("F", bound=Callable[..., Any])


def route_of(scope: Scope) -> str:
    """The template of the URL pattern that answers, as ``kit.wrap(app, route_of=route_of)`` takes it."""
    try:
        route = resolve(scope["path"].removeprefix(scope.get("root_path", ""))).route
    except Resolver404:
        return UNKNOWN_ROUTE
    return "/" + str(route).lstrip("^/").rstrip("$")[:_LONGEST_ROUTE]


class PrincipalMiddleware:
    """Sets ``request.principal``: the caller, or an anonymous one (``is_authenticated`` is False); refuses nobody."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if self._is_async:
            return self._call_async(request)
        request.principal = _result(request).user
        return _told(request, self._get_response(request))

    async def _call_async(self, request: HttpRequest) -> HttpResponse:
        request.principal = (await authenticate_once(_kit(), _scope(request))).user
        return _told(request, await self._get_response(request))


def require_scopes(*scopes: str) -> Callable[[F], F]:
    """Lets callers who have all of ``scopes`` (none: any who are signed in) through to a view.

    Others get the kit's ``application/problem+json``: 401 with ``WWW-Authenticate``, 403, or 503 with
    ``Retry-After``. For methods of class-based views, use ``method_decorator``.
    """

    def decorate(view: F) -> F:
        if iscoroutinefunction(view):

            @wraps(view)
            async def guarded_async(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
                refused = _admit(request, await authenticate_once(_kit(), _scope(request)), scopes)
                return _told(request, refused or await view(request, *args, **kwargs))

            return guarded_async  # type: ignore[return-value]  # it is called as the view was

        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            refused = _admit(request, _result(request), scopes)
            return _told(request, refused or view(request, *args, **kwargs))

        return guarded  # type: ignore[return-value]  # it is called as the view was

    return decorate


def _admit(request: HttpRequest, result: AuthResult, scopes: tuple[str, ...]) -> HttpResponse | None:
    try:
        request.principal = authorize(result, scopes)
    except ProjkitError as error:
        request_id = _kit().request_ids.get(_scope(request))
        answer = problem_response(error, request_of(_scope(request), request_id.decode()))
        refused = HttpResponse(answer.body, status=answer.status)
        for name, value in (*answer.headers, NO_SNIFF, (b"x-request-id", request_id)):
            refused[name.decode()] = value.decode()
        return refused
    set_user(_scope(request), request.principal)
    return None


def _result(request: HttpRequest) -> AuthResult:
    """Who calls, from a thread of Django's; the kit is asked on the event loop that it lives on."""
    kit, scope = _kit(), _scope(request)
    result = cached_result(kit, scope)
    return async_to_sync(authenticate_once)(kit, scope) if result is None else result


def _told(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    for name, value in pop_response_headers(_scope(request)):
        response[name.decode()] = value.decode()
    return response


def _kit() -> Authenticates:
    kit = getattr(settings, _SETTING, None)
    if kit is None:
        raise ImproperlyConfigured(f"{_SETTING} must be the kit, or its dotted path, as in 'mysite.asgi.kit'")
    found: Authenticates = import_string(kit) if isinstance(kit, str) else kit
    return found


def _scope(request: HttpRequest) -> Scope:
    scope: Scope | None = getattr(request, "scope", None)
    if scope is None:
        raise ImproperlyConfigured("projkit needs Django to be served over ASGI; this request came over WSGI")
    return scope
