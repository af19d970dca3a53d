"""Errors in tracing, kept away from requests: a failure costs the trace, never the response."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
OnError = Callable[[Exception], None]


class ReportsErrors(Protocol):
    """An object with a callback for errors."""

    on_error: OnError


S = TypeVar("S", bound=ReportsErrors)


def never_raise(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """Decorate a method that calls spans or span processors: pass their errors to ``on_error``."""

    @wraps(method)
    def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.on_error(error)

    return guarded
