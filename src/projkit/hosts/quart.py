"""Quart: route templates, for the metrics of ``kit.wrap(app, route_of=route_of(app))``."""

from collections.abc import Callable

from quart import Quart
from starlette.types import Scope
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from projkit.http.timing import UNKNOWN_ROUTE


def route_of(app: Quart) -> Callable[[Scope], str]:
    """Create a function that returns the route template of an ASGI scope; the function never raises."""

    def read(scope: Scope) -> str:
        urls = app.url_map.bind("localhost")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            rule, _ = urls.match(path, method=scope.get("method", "GET"), return_rule=True)
        except (HTTPException, RequestRedirect):
            return UNKNOWN_ROUTE
        return str(rule.rule)

    return read
