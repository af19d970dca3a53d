"""Results of self-tests, and the two expectations that a check states."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Literal

from projkit.errors import CsrfFailedError, UnauthenticatedError


class ExpectationError(Exception):
    """An expectation that does not hold; the message says what is wrong and contains no secret."""


class NotConfiguredError(Exception):
    """A check that does not apply to these settings; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    ``latency_ms`` is None if nothing was called or no response arrived, and ``status_code`` if the check is not a
    request. ``detail`` never contains key material, tokens or session ids.
    """

    name: str
    status: Literal["ok", "slow", "failed", "not_configured"]
    latency_ms: float | None = None
    detail: str | None = None
    status_code: int | None = None


def expect(condition: bool, detail: str) -> None:
    """Return if ``condition`` holds.

    Raises:
        ExpectationError: it does not; the message is ``detail``.
    """
    if not condition:
        raise ExpectationError(detail)


async def expect_rejected(request: Awaitable[Any], what: str) -> None:
    """Await ``request`` and return if it is rejected.

    Raises:
        ExpectationError: ``what`` was accepted.
        UnavailableError: A store that is needed to decide does not respond.
    """
    try:
        await request
    except (UnauthenticatedError, CsrfFailedError):
        return
    raise ExpectationError(f"{what} was accepted")
