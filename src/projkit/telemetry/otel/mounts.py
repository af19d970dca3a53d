"""The prefix of the kit's routes where it is mounted, such as ``/kit``."""

from typing import Final

from starlette.types import Scope

from projkit.telemetry.families import UNKNOWN

_MAX_PREFIXES: Final = 64


class MountPrefixes:
    """The prefixes seen so far; their number is limited, since a mount with parameters has one for each value."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def of(self, scope: Scope) -> str:
        """Return the prefix of a request; ``/__unknown__`` beyond the limit."""
        prefix: str = scope.get("root_path", "")
        if prefix not in self._seen:
            if len(self._seen) == _MAX_PREFIXES:
                return "/" + UNKNOWN
            self._seen.add(prefix)
        return prefix
