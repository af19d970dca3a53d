"""The refusal of an anonymous caller that host code passes to ``kit.projects``.

All anonymous callers have the same, empty subject: what one of them stored, all others could read. The error is also
Starlette's ``HTTPException``, so that Starlette, FastAPI and Litestar respond with 401 in a route without a guard.
"""

from typing import Final

from starlette.exceptions import HTTPException

from projkit.errors import UnauthenticatedError
from projkit.http.problem import headers_of
from projkit.identity import Principal

_ADVICE: Final = (
    "An anonymous caller was passed to kit.projects: guard the route with require_scopes or current_principal, or "
    "check is_authenticated first"
)


class AnonymousCallerError(HTTPException, UnauthenticatedError):
    """Host code acts for a caller who is not authenticated."""

    def __init__(self) -> None:
        UnauthenticatedError.__init__(self)
        headers = {name.decode(): value.decode() for name, value in headers_of(self)}
        HTTPException.__init__(self, 401, self.detail, headers)
        self.add_note(_ADVICE)


def require_principal(caller: object) -> Principal:
    """Return the caller if it is an authenticated principal.

    Raises:
        AnonymousCallerError: the caller is anonymous.
        TypeError: the caller is something else, such as a user object of the host.
    """
    if isinstance(caller, Principal):
        return caller
    if caller is None or getattr(caller, "is_authenticated", None) is False:
        raise AnonymousCallerError
    raise TypeError(
        f"kit.projects needs a Principal, not {type(caller).__name__}: pass the principal of the request, or "
        "Principal(subject)"
    )
