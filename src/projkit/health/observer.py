"""Who wants to know what health sees; the kit's recorder does."""

from typing import Final, Protocol


class Observer(Protocol):
    """Is told of each look; must never raise and never wait."""

    def health_check(
        self, name: str, *, critical: bool, well: bool, seconds: float, good_seconds: float
    ) -> None:
        """A check was looked at, or is about to be for the first time; what is told is good for so long."""

    def event_loop_lag(self, seconds: float) -> None:
        """The event loop was so late at worst, within the last ten seconds."""


class _Nobody:
    def health_check(
        self, name: str, *, critical: bool, well: bool, seconds: float, good_seconds: float
    ) -> None:
        pass

    def event_loop_lag(self, seconds: float) -> None:
        pass


NOBODY: Final[Observer] = _Nobody()
