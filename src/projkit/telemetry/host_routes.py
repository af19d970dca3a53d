"""The template of the host's route that has answered, as frameworks leave it in the scope."""

from functools import lru_cache
from typing import Any, Final

from starlette.types import Scope

from projkit.http import scope_keys
from projkit.telemetry.families import UNKNOWN

_LONGEST: Final = 200


class HostRoutes:
    """Reads the template from the scope; ``__unknown__`` where the framework leaves none. Never raises.

    Starlette and FastAPI leave the route, Litestar its template. Of others a function of your own may know:
    ``kit.wrap(app, route_of=…)``; for Django and Quart there are ``projkit.hosts.django.route_of`` and
    ``projkit.hosts.quart.route_of``.
    """

    def __init__(self, host_app: object) -> None:
        self._host_app = host_app
        self._mount_of = lru_cache(1024)(self._find_mount)

    def __call__(self, scope: Scope) -> str:
        template: Any = scope.get("path_template")  # Litestar
        if not isinstance(template, str) or not template:
            route = _route_of(scope) or self._by_endpoint(scope)
            if hasattr(route, "routes"):  # nothing within that mount knew the path
                return str(getattr(route, "path_format", UNKNOWN))[:_LONGEST]
            template = getattr(route, "path_format", None) or getattr(route, "path", None)
        if not isinstance(template, str) or not template or len(template) > _LONGEST:
            return UNKNOWN
        root_path: str = scope.get("root_path", "")
        mounted = root_path.removeprefix(scope.get("app_root_path", root_path))
        return self._mount_of(mounted, self._app_of(scope)) + template if mounted else template

    def _app_of(self, scope: Scope) -> Any:
        """The host itself, where only a middleware of its was handed in: what was in the scope before any mount."""
        return self._host_app if hasattr(self._host_app, "routes") else scope.get(scope_keys.HOST_APP)

    def _by_endpoint(self, scope: Scope) -> Any:
        """FastAPI leaves no route for endpoints that were added as Starlette's."""
        endpoint = scope.get("endpoint")
        routes: Any = getattr(self._app_of(scope), "routes", ())
        return next(
            (each for each in routes if endpoint is not None and getattr(each, "endpoint", None) is endpoint),
            None,
        )

    @staticmethod
    def _find_mount(mounted: str, app: object) -> str:
        """The template of what stands before the route where that is one of an app mounted in the host.

        Starlette puts the mount's path, as it was asked for, into ``root_path``; one with parameters would make a
        series for each of their values, so its template is looked up.
        """
        rest, found = mounted, ""
        routes = getattr(app, "routes", ())
        while rest:
            for route in routes:
                match = route.path_regex.match(rest + "/") if hasattr(route, "routes") else None
                if match is not None and "path" in match.groupdict():
                    found += route.path
                    rest = ("/" + match["path"]).rstrip("/")
                    routes = route.routes
                    break
            else:
                return "/" + UNKNOWN
        return found[:_LONGEST]


def _route_of(scope: Scope) -> Any:
    # The route that FastAPI leaves does not know the prefixes of the routers that it was included by; this one does.
    fastapi = scope.get("fastapi")
    if isinstance(fastapi, dict) and fastapi.get("effective_route_context") is not None:
        return fastapi["effective_route_context"]
    return scope.get(scope_keys.MATCHED_ROUTE)
