"""Survey of a host: the middlewares that ``kit.wrap`` bypasses, and the routes that the kit hides or changes.

Only attributes that the frameworks document are read, and none of the frameworks is imported: what a host does not
have is not reported.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

_NAMED: Final = 5  # routes and middlewares in a warning

# Returns whether a path, without parameters, is served by the kit.
IsKitPath = Callable[[str], bool]


def warnings_of(host: Any, is_kit_path: IsKitPath, *, inside: bool) -> Iterator[str]:
    """Yield what a host's developer should know: bypassed middlewares, unless the kit is inside, and hidden routes."""
    middlewares = [] if inside else _middlewares_of(host)
    if middlewares:
        yield (
            f"kit.wrap puts the kit outside the host's middlewares, which do not see the kit's requests: "
            f"{_listed(middlewares)}. {_advice(host)}"
        )
    hidden = [path for path in _paths_of(host) if is_kit_path(path)]
    if hidden:
        yield (
            f"the kit hides routes of the host: {_listed(hidden)}. Its paths are also found below the path of "
            'PROJKIT_PUBLIC_URL. Give the kit a prefix of its own, kit.wrap(app, prefix="/kit"), or set '
            "PROJKIT_API_PREFIX or PROJKIT_METRICS_PATH"
        )


def warnings_of_mount(host: Any, kit: Any) -> Iterator[str]:
    """Yield what the developer of a Starlette or FastAPI host should know about a kit that is mounted at ``/``."""
    routes = getattr(host, "routes", None) or ()
    if any(getattr(each, "app", None) is kit and each.path == "" for each in routes):
        others = [each.path for each in _resolved(routes) if getattr(each, "include_in_schema", False)]
        if others:
            yield (
                "the kit is mounted at /, so that the host's 405 responses and redirects to slashes become the kit's "
                f'404: {_listed(others)}. Use kit.wrap(app), or mount the kit at a prefix, app.mount("/kit", kit)'
            )


def _advice(host: Any) -> str:
    if isinstance(getattr(host, "user_middleware", None), list):
        return 'Mount the kit, app.mount("/kit", kit), or use kit.wrap(app, inside=True)'
    if hasattr(host, "asgi_router"):
        return 'Mount the kit in Litestar, with asgi("/kit", is_mount=True, copy_scope=True)'
    if _is_blacksheep(host):
        return 'Mount the kit, app.mount("/kit", kit)'
    return "Put ASGI middleware that must see them around the result of kit.wrap, or configure a proxy"


def _middlewares_of(host: Any) -> list[str]:
    starlette = [_name_of(getattr(each, "cls", each)) for each in _list_of(host, "user_middleware")]
    litestar = [_name_of(getattr(each, "middleware", each)) for each in _list_of(host, "middleware")]
    litestar += [
        name for name in ("cors_config", "csrf_config", "allowed_hosts") if getattr(host, name, None)
    ]
    # Quart: functions before each request, and ASGI middleware around its asgi_app.
    quart = [_name_of(each) for each in getattr(host, "before_request_funcs", {}).get(None, [])]
    asgi_app = getattr(host, "asgi_app", None)
    if asgi_app is not None and getattr(asgi_app, "__self__", None) is not host:
        quart.append(_name_of(type(asgi_app)))
    return [*starlette, *litestar, *quart, *_blacksheep_middlewares(host), *_django_middlewares(host)]


def _blacksheep_middlewares(host: Any) -> list[str]:
    return [_name_of(each) for each in host.middlewares] if _is_blacksheep(host) else []


def _django_middlewares(host: Any) -> list[str]:
    """Return the middlewares of a Django project that are not Django's own, which every project has."""
    if not _is_django(host):
        return []
    configured: Any = sys.modules["django.conf"].settings.MIDDLEWARE
    return [name for name in configured if not name.startswith(("django.", "projkit."))]


def _is_blacksheep(host: Any) -> bool:
    return hasattr(getattr(host, "router", None), "iter_all")


def _is_django(host: Any) -> bool:
    return "django.core.handlers.asgi" in {each.__module__ for each in type(host).__mro__}


def _list_of(host: Any, name: str) -> list[Any]:
    value = getattr(host, name, None)
    return value if isinstance(value, list) else []


def _name_of(middleware: Any) -> str:
    return str(getattr(middleware, "__name__", None) or type(middleware).__name__)


def _paths_of(host: Any) -> Iterable[str]:
    if (url_map := getattr(host, "url_map", None)) is not None:  # Quart
        return [rule.rule for rule in url_map.iter_rules()]
    if _is_django(host):
        return _paths_of_patterns(sys.modules["django.urls"].get_resolver().url_patterns, "/")
    if _is_blacksheep(host):
        return [route.pattern.decode() for route in host.router.iter_all()]
    return _paths_of_routes(getattr(host, "routes", None) or (), "")


def _paths_of_routes(routes: Iterable[Any], mount: str) -> Iterator[str]:
    """Yield the paths of Starlette's, FastAPI's and Litestar's routes, and of those of mounted applications."""
    for route in _resolved(routes):
        if not isinstance(path := getattr(route, "path", None), str):
            continue
        if inner := getattr(route, "routes", None):
            yield from _paths_of_routes(inner, mount + path)
        else:
            yield mount + path


def _resolved(routes: Iterable[Any]) -> Iterable[Any]:
    """Replace the routers that newer versions of FastAPI keep among the routes by their routes."""
    resolve = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return routes if resolve is None else resolve(routes)


def _paths_of_patterns(patterns: Iterable[Any], before: str) -> Iterator[str]:
    """Yield the paths of Django's URL patterns; a regular expression is shown without its anchors."""
    for each in patterns:
        path = before + str(each.pattern).removeprefix("^").removesuffix("$")
        if hasattr(each, "url_patterns"):
            yield from _paths_of_patterns(each.url_patterns, path)
        else:
            yield path


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
