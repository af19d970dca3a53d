"""The route template of a host's request, as frameworks store it in the scope."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from starlette.types import Scope

from projkit.http import scope_keys
from projkit.telemetry.families import UNKNOWN

_MAX_CHARS: Final = 200


class HostRoutes:
    """A function that reads the template from the scope: ``__unknown__`` if there is none. It never raises.

    Starlette and FastAPI store the route, Litestar the template. For other frameworks pass a function of your own:
    ``kit.wrap(app, route_of=…)``; for Django and Quart, use ``projkit.hosts.django.route_of`` and
    ``projkit.hosts.quart.route_of``.
    """

    def __init__(self, host_app: object) -> None:
        self._host_app = host_app
        self._mount_of = lru_cache(1024)(self._find_mount)

    def __call__(self, scope: Scope) -> str:
        template: Any = scope.get("path_template")  # Litestar
        if not isinstance(template, str) or not template:
            route = _route_of(scope) or self._by_endpoint(scope)
            if hasattr(route, "routes"):  # no route within that mount matched
                return str(getattr(route, "path_format", UNKNOWN))[:_MAX_CHARS]
            template = getattr(route, "path_format", None) or getattr(route, "path", None)
        if not isinstance(template, str) or not template or len(template) > _MAX_CHARS:
            return UNKNOWN
        root_path: str = scope.get("root_path", "")
        mounted = root_path.removeprefix(scope.get("app_root_path", root_path))
        return self._mount_of(mounted, self._app_of(scope)) + template if mounted else template

    def _app_of(self, scope: Scope) -> Any:
        """Return the host; if only a middleware of it was wrapped, the app in the scope before any mount."""
        return self._host_app if hasattr(self._host_app, "routes") else scope.get(scope_keys.HOST_APP)

    def _by_endpoint(self, scope: Scope) -> Any:
        """Find the route of the endpoint: FastAPI stores none for Starlette's routes, nor did Starlette before 1.7."""
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return None
        candidates = list(_with_endpoint(endpoint, getattr(self._app_of(scope), "routes", ())))
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        # One function may be the endpoint of several routes.
        return next(
            (each for each in candidates if _matches(each, path)), candidates[0] if candidates else None
        )

    @staticmethod
    def _find_mount(mounted: str, app: object) -> str:
        """Return the template of the mount of an app that is mounted in the host.

        Starlette stores the requested path of the mount in ``root_path``. For a mount with parameters, that would
        create a series for each of their values.
        """
        rest, template = mounted, ""
        routes = getattr(app, "routes", ())
        while rest:
            for route in routes:
                match = route.path_regex.match(rest + "/") if hasattr(route, "routes") else None
                if match is not None and "path" in match.groupdict():
                    template += route.path
                    rest = ("/" + match["path"]).rstrip("/")
                    routes = route.routes
                    break
            else:
                return "/" + UNKNOWN
        return template[:_MAX_CHARS]


def _with_endpoint(endpoint: object, routes: Any) -> Iterator[Any]:
    for each in routes:
        # A mount's endpoint is the mounted app.
        if getattr(each, "app" if hasattr(each, "routes") else "endpoint", None) is endpoint:
            yield each
        yield from _with_endpoint(endpoint, getattr(each, "routes", ()))


def _matches(route: Any, path: str) -> bool:
    pattern = getattr(route, "path_regex", None)
    return pattern is not None and pattern.match(path) is not None


def _route_of(scope: Scope) -> Any:
    # FastAPI's own route lacks the prefixes of the routers that include it; this one has them.
    fastapi = scope.get("fastapi")
    if isinstance(fastapi, dict) and fastapi.get("effective_route_context") is not None:
        return fastapi["effective_route_context"]
    return scope.get(scope_keys.MATCHED_ROUTE)
