"""What stands before the kit in full routes: ``/kit`` where it is mounted there."""

from typing import Final

from starlette.types import Scope

from projkit.telemetry.families import UNKNOWN

_LIMIT: Final = 64


class Mounts:
    """The mounts that were seen; one with parameters has a value for each of theirs, so only so many are told apart."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def of(self, scope: Scope) -> str:
        """What stands before the kit's route."""
        mount: str = scope.get("root_path", "")
        if mount not in self._seen:
            if len(self._seen) == _LIMIT:
                return "/" + UNKNOWN
            self._seen.add(mount)
        return mount
