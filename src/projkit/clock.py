"""The clock that dates rows, tokens and cursors, and the format of times."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time in UTC, with microseconds."""
    return datetime.now(UTC)


def rfc3339(moment: datetime, *, timespec: str = "microseconds") -> str:
    """Format an aware time as RFC 3339 §5.6 does, in UTC with ``Z``; ``timespec`` is that of ``isoformat``."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=timespec) + "Z"
