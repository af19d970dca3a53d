"""The kit's route templates with the prefix of its mount (``/kit/api/v1/projects``), as telemetry and logs name them.

The prefix is what ``root_path`` holds: a proxy's prefix that the server was told of, then the mount. A host may have a
route of the same name below another prefix, or a second kit.

A mount with parameters (``/{tenant}/kit``) has one prefix for each of their values, so these are replaced by the names
that the host's router stored in ``path_params``. Where a router stores none, the number of prefixes is limited.
"""

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Scope

_MAX_PREFIXES: Final = 16
_MAX_CHARS: Final = 200
_UNKNOWN_PREFIX: Final = "/__unknown__"


class MountedRoutes:
    """The full routes of one kit.

    Attributes:
        kinds: the kind of each of the kit's templates, such as ``projects`` or ``probe``.
        kinds_by_route: the same by full route, for the prefixes that have been requested.
        at_root: whether a request without a prefix has been seen; a template is then its full route.
    """

    def __init__(self) -> None:
        self.kinds: Mapping[str, str] = {}
        self.kinds_by_route: dict[str, str] = {}
        self.at_root = False
        self._prefixes: set[str] = set()
        self._routes: dict[tuple[str, str], str] = {}

    def full(self, scope: Scope, template: str) -> str:
        """Return the full route of a request that matched a template of the kit."""
        root_path: str = scope.get("root_path", "")
        if not root_path:
            if not self.at_root:
                self.at_root = True
                self.kinds_by_route.update(self.kinds)
            return template
        known = self._routes.get((root_path, template))
        return self._resolve(root_path, scope.get("path_params"), template) if known is None else known

    def _resolve(self, root_path: str, params: Mapping[str, Any] | None, template: str) -> str:
        prefix = _with_names(root_path, params) if params else root_path
        known = self._routes.get((prefix, template))
        if known is not None:
            return known
        if prefix not in self._prefixes:
            if len(self._prefixes) >= _MAX_PREFIXES or len(prefix) > _MAX_CHARS:
                prefix = _UNKNOWN_PREFIX
            else:
                self._prefixes.add(prefix)
        route = self._routes[(prefix, template)] = prefix + template
        self.kinds_by_route[route] = self.kinds[template]
        return route


def _with_names(root_path: str, params: Mapping[str, Any]) -> str:
    """Replace the values of a mount's parameters by their names, as in the template of the mount.

    A converter can give many spellings one value, such as 7 for ``007``. A value that is not found makes the prefix
    unknown, so that clients cannot use up the prefixes with spellings.
    """
    path = f"{root_path}/"
    for name, value in params.items():
        spelled = f"/{value}/"
        if spelled not in path and not isinstance(value, str):
            segment = next((each for each in path.split("/") if _converts_to(each, value)), None)
            if segment is None:
                return _UNKNOWN_PREFIX
            spelled = f"/{segment}/"
        path = path.replace(spelled, f"/{{{name}}}/", 1)
    return path[:-1]


def _converts_to(segment: str, value: Any) -> bool:
    try:
        return bool(type(value)(segment) == value)
    except Exception:  # the host's own types can raise anything
        return False
