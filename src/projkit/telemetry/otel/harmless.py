"""What goes wrong while a request is traced costs the trace, and never the request."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
Complain = Callable[[Exception], None]


class Complaining(Protocol):
    """Knows whom to tell."""

    complain: Complain


S = TypeVar("S", bound=Complaining)


def harmless(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """A method that calls spans, and whoever processes them, and never fails."""

    @wraps(method)
    def tried(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.complain(error)

    return tried
