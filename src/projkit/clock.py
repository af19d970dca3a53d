"""The one clock that rows, tokens and cursors are dated by."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The present time in UTC, to the microsecond."""
    return datetime.now(UTC)
