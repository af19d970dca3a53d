"""The template of the host's route that has answered, as frameworks leave it in the scope."""

from typing import Any, Final

from projkit.http.request import Scope
from projkit.telemetry.families import UNKNOWN

_LONGEST: Final = 200


def host_route(scope: Scope) -> str:
    """The route's template, ``__unknown__`` where the framework leaves none.

    Starlette and FastAPI leave the route, Litestar its template. Of others a function of your own may know:
    ``kit.wrap(app, route_of=…)``; for Django and Quart there are ``projkit.hosts.django.route_of`` and
    ``projkit.hosts.quart.route_of``. Never raises.
    """
    template: Any = scope.get("path_template")
    if not isinstance(template, str) or not template:
        route = scope.get("route")
        if hasattr(route, "routes"):  # nothing within that mount knew the path
            return str(getattr(route, "path_format", UNKNOWN))[:_LONGEST]
        template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if not isinstance(template, str) or not template or len(template) > _LONGEST:
        return UNKNOWN
    return _mounted_at(scope) + template


def _mounted_at(scope: Scope) -> str:
    """What stands before the template where the route is that of an app mounted in the host.

    Starlette puts the mount's path, as it was asked for, into ``root_path``; one with parameters would make a series
    for each of their values, so it is taken from the app's own routes.
    """
    root_path: str = scope.get("root_path", "")
    outer: str = scope.get("app_root_path", root_path)
    mounted = root_path.removeprefix(outer)
    if not mounted:
        return ""
    for route in getattr(scope.get("app"), "routes", ()):
        path = getattr(route, "path", None)
        if path == mounted:
            return mounted
    return "/" + UNKNOWN
