"""Survey of a host that ``kit.wrap`` goes around: the middlewares that the kit bypasses, the routes that it hides.

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
            f"the kit hides routes of the host: {_listed(hidden)}. Give the kit a prefix of its own, "
            'kit.wrap(app, prefix="/kit"), or set PROJKIT_API_PREFIX or PROJKIT_METRICS_PATH'
        )


def _advice(host: Any) -> str:
    if isinstance(getattr(host, "user_middleware", None), list):
        return 'Mount the kit, app.mount("/kit", kit), or use kit.wrap(app, inside=True)'
    if hasattr(host, "asgi_router"):
        return 'Mount the kit in Litestar, with asgi("/kit", is_mount=True, copy_scope=True)'
    return "Put ASGI middleware that must see them around the result of kit.wrap, or configure a proxy"


def _middlewares_of(host: Any) -> list[str]:
    starlette = [_name_of(getattr(each, "cls", each)) for each in _list_of(host, "user_middleware")]
    litestar = [_name_of(getattr(each, "middleware", each)) for each in _list_of(host, "middleware")]
    litestar += [
        name for name in ("cors_config", "csrf_config", "allowed_hosts") if getattr(host, name, None)
    ]
    # Quart: functions before each request, and ASGI middleware around its asgi_app.
    quart = [_name_of(each) for each in _list_of(getattr(host, "before_request_funcs", None) or {}, None)]
    asgi_app = getattr(host, "asgi_app", None)
    if asgi_app is not None and getattr(asgi_app, "__self__", None) is not host:
        quart.append(_name_of(type(asgi_app)))
    return [*starlette, *litestar, *quart, *_django_middlewares(host)]


def _django_middlewares(host: Any) -> list[str]:
    """Return the middlewares of a Django project that are not Django's own, which every project has."""
    if "django.core.handlers.asgi" not in {each.__module__ for each in type(host).__mro__}:
        return []
    configured: Any = sys.modules["django.conf"].settings.MIDDLEWARE
    return [name for name in configured if not name.startswith(("django.", "projkit."))]


def _list_of(holder: Any, name: str | None) -> list[Any]:
    value = holder.get(name, []) if isinstance(holder, dict) else getattr(holder, name or "", None)
    return value if isinstance(value, list) else []


def _name_of(middleware: Any) -> str:
    return str(getattr(middleware, "__name__", None) or type(middleware).__name__)


def _paths_of(host: Any) -> Iterable[str]:
    if (url_map := getattr(host, "url_map", None)) is not None:  # Quart
        return [rule.rule for rule in url_map.iter_rules()]
    found = (getattr(route, "path", None) for route in getattr(host, "routes", None) or ())
    return [path for path in found if isinstance(path, str)]


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
