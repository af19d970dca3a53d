"""Guards of Django's views: ``request.principal``, and ``@require_scopes("projects:read")`` on sync and async views."""

from collections.abc import Awaitable, Callable
from functools import cache, partial, wraps
from typing import Any, Final, TypeVar

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, resolve
from django.utils.functional import cached_property
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
from projkit.hosts.django.loop import WSGI_LOOP
from projkit.hosts.django.scopes import is_wsgi, scope_of
from projkit.http.anonymous import AnonymousCallerError
from projkit.http.problem import problem_response
from projkit.http.response import NO_SNIFF
from projkit.http.timing import UNKNOWN_ROUTE
from projkit.per_loop import runs_on_asyncio

_SETTING: Final = "PROJKIT_KIT"
F = TypeVar("F", bound=Callable[..., Any])


def route_of(scope: Scope) -> str:
    """Return the URL pattern of a request, for ``kit.wrap(app, route_of=route_of)``."""
    try:
        route = resolve(scope["path"].removeprefix(scope.get("root_path", ""))).route
    except Resolver404:
        return UNKNOWN_ROUTE
    return "/" + str(route).lstrip("^/").rstrip("$")


class PrincipalMiddleware:
    """Middleware that sets ``request.principal``: the caller, or an anonymous one (``is_authenticated`` is False).

    It rejects no requests, except those whose view passes an anonymous principal to ``kit.projects``: these get 401.
    Like ``request.user``, the principal is determined when it is first read, so that pages that do not read it cost no
    queries and can be cached. Asynchronous views cannot wait: theirs is determined before.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        # Django calls it in a thread if it does not suit the request.
        self.process_view: Callable[..., Any] = self._process_view
        if self._is_async:
            markcoroutinefunction(self)
            self.process_view = self._process_view_async

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        find_kit()  # whatever the page reads, a missing setting is reported
        request_type: Any = type(request)
        request.__class__ = _with_principal(request_type)
        if self._is_async:
            return self._call_async(request)
        return _with_response_headers(request, self._get_response(request))

    async def _call_async(self, request: HttpRequest) -> HttpResponse:
        return _with_response_headers(request, await self._get_response(request))

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Respond with 401 if a view without a guard passed an anonymous principal to ``kit.projects``."""
        return _problem(request, exception) if isinstance(exception, AnonymousCallerError) else None

    def _process_view(self, request: HttpRequest, view: Callable[..., Any], *_: Any) -> None:
        if iscoroutinefunction(view):
            request.principal = _result(request).user

    async def _process_view_async(self, request: HttpRequest, view: Callable[..., Any], *_: Any) -> None:
        if iscoroutinefunction(view):
            request.principal = (await _result_async(request)).user


@cache
def _with_principal(request_type: Any) -> Any:
    """Return a class of requests with the attribute ``principal``, which is set at its first use.

    A lazy object in its place would be evaluated wherever it is used, such as on an event loop of the kit.
    """
    attributes = {"principal": cached_property(_principal), "__module__": request_type.__module__}
    return type(request_type.__name__, (request_type,), attributes)


def _principal(request: HttpRequest) -> Any:
    return _result(request).user


def require_scopes(*scopes: str) -> Callable[[F], F]:
    """Require callers of a view to have all of ``scopes``; without scopes, to be authenticated.

    Other requests get the kit's ``application/problem+json``: 401 with ``WWW-Authenticate``, 403, or 503 with
    ``Retry-After``. For methods of class-based views, use ``method_decorator``.
    """

    def decorate(view: F) -> F:
        if iscoroutinefunction(view):

            @wraps(view)
            async def guarded_async(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
                rejection = _reject_unauthorized(request, await _result_async(request), scopes)
                return _with_response_headers(request, rejection or await view(request, *args, **kwargs))

            return guarded_async  # type: ignore[return-value]  # it has the view's signature

        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            rejection = _reject_unauthorized(request, _result(request), scopes)
            return _with_response_headers(request, rejection or view(request, *args, **kwargs))

        return guarded  # type: ignore[return-value]  # it has the view's signature

    return decorate


def _reject_unauthorized(
    request: HttpRequest, result: AuthResult, scopes: tuple[str, ...]
) -> HttpResponse | None:
    try:
        request.principal = authorize(result, scopes)
    except ProjkitError as error:
        return _problem(request, error)
    set_user(scope_of(request), request.principal)
    return None


def _problem(request: HttpRequest, error: ProjkitError) -> HttpResponse:
    request_id = find_kit().request_ids.get(scope_of(request))
    problem = problem_response(error, request_of(scope_of(request), request_id.decode()))
    response = HttpResponse(problem.body, status=problem.status)
    for name, value in (*problem.headers, NO_SNIFF, (b"x-request-id", request_id)):
        response[name.decode()] = value.decode()
    return response


def _result(request: HttpRequest) -> AuthResult:
    """Authenticate from one of Django's threads, on the event loop on which the kit runs."""
    kit, scope = find_kit(), scope_of(request)
    result = cached_result(kit, scope)
    if result is not None:
        return result
    if is_wsgi(scope):
        return WSGI_LOOP.run(partial(authenticate_once, kit, scope))
    if runs_on_asyncio():
        raise SynchronousOnlyOperation(
            "request.principal is not known yet: in asynchronous middleware, await kit.authenticate(request.scope)"
        )
    return async_to_sync(authenticate_once)(kit, scope)


async def _result_async(request: HttpRequest) -> AuthResult:
    """Authenticate from an event loop; over WSGI it lasts no longer than the request, so it is not the kit's."""
    kit, scope = find_kit(), scope_of(request)
    if is_wsgi(scope):
        return await WSGI_LOOP.run_async(partial(authenticate_once, kit, scope))
    return await authenticate_once(kit, scope)


def _with_response_headers(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    for name, value in pop_response_headers(scope_of(request)):
        response[name.decode()] = value.decode()
    return response


def find_kit() -> Authenticates:
    """Return the kit of the settings.

    Raises:
        ImproperlyConfigured: there is none.
    """
    kit = getattr(settings, _SETTING, None)
    if kit is None:
        raise ImproperlyConfigured(f"set {_SETTING} to the kit or its dotted path, such as 'mysite.kit.kit'")
    resolved: Authenticates = import_string(kit) if isinstance(kit, str) else kit
    return resolved
