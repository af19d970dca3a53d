"""What a health check is, and what it has seen."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import orjson

from projkit.errors import ConfigurationError

# Of a check: ``unknown`` is not seen yet, or seen too long ago.
CheckStatus: TypeAlias = Literal["ok", "error", "unknown"]
# Of the whole: ``degraded`` where a check fails that is not critical.
Status: TypeAlias = Literal["ok", "degraded", "error"]

# After so many periods an observation counts for nothing.
STALE_PERIODS: Final = 3
_LONGEST_NAME: Final = 64
_LONGEST_DETAIL: Final = 500
_MOST_DATA_BYTES: Final = 16_384


class CheckFailedError(Exception):
    """Raised by a check to say why it fails: unlike any other exception's, its text is shown to who may see it.

    ``detail`` may be anything that has a text; ``data`` is what was measured all the same: an object of JSON.
    """

    def __init__(self, detail: object, data: Mapping[str, Any] | None = None) -> None:
        self.detail = text_of(detail)
        self.data = data
        super().__init__(self.detail)


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A name and what is called to look: all is well where it returns, and not where it raises.

    A coroutine function runs on the kit's event loop; any other function runs in a thread of its own, and may
    return an awaitable. It returns None, a text, or an object of JSON, which are shown; False is a failure.

    Args:
        critical: without it the kit is not ready.
        timeout: in seconds; what has not ended by then fails.
        period: in seconds, from one look to the next.

    Raises:
        ConfigurationError: a value is wrong.
    """

    name: str
    function: Callable[[], Any]
    critical: bool = False
    timeout: float = 1.0
    period: float = 5.0

    def __post_init__(self) -> None:
        name: object = self.name
        if (
            not isinstance(name, str)
            or not name.strip()
            or len(name) > _LONGEST_NAME
            or not name.isprintable()
        ):
            raise ConfigurationError(
                f"a health check needs a printable name of 1 to {_LONGEST_NAME} characters, not {name!r}"
            )
        if not callable(self.function):
            raise ConfigurationError(
                f"the health check {name} needs a function to call, not {type(self.function).__name__}"
            )
        for function in (self.function, self._own_call):
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise ConfigurationError(
                    f"the health check {name} is a generator function, of which a call runs nothing; "
                    "let it return instead of yield"
                )
        for field in ("timeout", "period"):
            value: object = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86_400:
                raise ConfigurationError(
                    f"the health check {name} needs a {field} of more than 0 seconds and at most a day, not {value!r}"
                )

    @property
    def is_coroutine_function(self) -> bool:
        """Whether calling it only makes a coroutine, and so takes no time."""
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(self._own_call)

    @property
    def stale_seconds(self) -> float:
        """How old an observation may be; a check that takes longer than its period has that much more."""
        return STALE_PERIODS * max(self.period, self.timeout)

    @property
    def _own_call(self) -> object:
        return getattr(self.function, "__call__", None)  # noqa: B004  # an object's own, as in functools.partial


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of one run of a check.

    ``loop_time`` is a reading of the event loop's monotonic clock in seconds; ``observed_at`` is the wall-clock time.
    """

    status: Literal["ok", "error"]
    loop_time: float
    observed_at: datetime
    latency_ms: float
    detail: str = ""
    data: Mapping[str, Any] | None = None


def read_result(result: object) -> tuple[str, Mapping[str, Any] | None]:
    """The detail and the data that a check has returned.

    Raises:
        CheckFailedError: it returned False, what is no JSON, or work that nobody does.
    """
    if result is False:
        raise CheckFailedError("returned False")
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()
        raise CheckFailedError(f"returned a {type(result).__name__} that nobody runs")
    if isinstance(result, str):
        return shortened(result), None
    if isinstance(result, Mapping):
        return "", readable(result)
    return "", None


def readable(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data as it is now, if it can be shown: a copy, whatever becomes of what was given.

    Raises:
        CheckFailedError: it is no JSON, or too much.
    """
    try:
        written = orjson.dumps(dict(data), default=_plain)
    except Exception as error:  # a mapping of the host's may raise anything at all
        raise CheckFailedError("returned what cannot be written as JSON") from error
    if len(written) > _MOST_DATA_BYTES:
        raise CheckFailedError(f"returned more than {_MOST_DATA_BYTES} bytes of JSON")
    copy: Mapping[str, Any] = orjson.loads(written)
    return copy


def shortened(detail: object) -> str:
    """A detail that is no longer than anybody reads, on one line and of printable characters."""
    line = "".join(each if each.isprintable() else " " for each in text_of(detail)[: _LONGEST_DETAIL + 1])
    return line if len(line) <= _LONGEST_DETAIL else line[: _LONGEST_DETAIL - 1] + "\N{HORIZONTAL ELLIPSIS}"


def text_of(value: object) -> str:
    """The text of anything; of what has none, or fails to tell it, the name of its class."""
    if isinstance(value, str):
        return value
    try:
        text = str(value)
    except BaseException:  # the host's own code, which may raise anything at all
        text = ""
    return text or type(value).__name__


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
