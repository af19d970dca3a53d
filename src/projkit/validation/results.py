"""How a check of the authentication says what it found."""

from collections.abc import Awaitable
from typing import Any

from projkit.errors import CsrfFailedError, UnauthenticatedError


class CheckFailedError(Exception):
    """It does not do what it claims; the text says what, and holds no secret."""


class NotConfiguredError(Exception):
    """There is nothing to check; the text says why."""


def agree(is_right: bool, detail: str) -> None:
    """Returns where it is.

    Raises:
        CheckFailedError: with ``detail``.
    """
    if not is_right:
        raise CheckFailedError(detail)


async def refused(request: Awaitable[Any], what: str) -> None:
    """Returns where the request is refused.

    Raises:
        CheckFailedError: ``what`` was accepted.
        UnavailableError: nobody can tell.
    """
    try:
        await request
    except (UnauthenticatedError, CsrfFailedError):
        return
    raise CheckFailedError(f"{what} was accepted")
