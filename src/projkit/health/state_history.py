"""The history of a check's state: since when it fails, and its latest changes. It is kept in memory."""

from collections import deque
from datetime import datetime
from typing import Final, Literal, NamedTuple

MAX_CHANGES: Final = 10


class StateChange(NamedTuple):
    """A result of a check that differs from the one before it; the first result is one, too."""

    status: Literal["ok", "error"]
    at: datetime
    detail: str


class StateHistory:
    """The state changes of one check, the latest last.

    Attributes:
        failing_since: the time of the first failure since the check last succeeded; None while it succeeds.
        changes: the latest changes.
    """

    def __init__(self) -> None:
        self.failing_since: datetime | None = None
        self.changes: deque[StateChange] = deque(maxlen=MAX_CHANGES)

    def record(self, status: Literal["ok", "error"], at: datetime, detail: str) -> None:
        """Record a result."""
        if not self.changes or self.changes[-1].status != status:
            self.changes.append(StateChange(status, at, detail))
            self.failing_since = at if status == "error" else None
