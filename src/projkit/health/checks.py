"""Health checks and the results of their runs."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import orjson

from projkit.errors import ConfigurationError
from projkit.host_calls import is_coroutine_function

# The status of a check: ``unknown`` before its first result, or when its latest result is too old.
CheckStatus: TypeAlias = Literal["ok", "error", "unknown"]
# The overall status: ``degraded`` when a non-critical check fails.
Status: TypeAlias = Literal["ok", "degraded", "error"]

# The number of periods after which an observation is stale.
STALE_PERIODS: Final = 3
_MAX_NAME_LENGTH: Final = 64
_MAX_DETAIL_LENGTH: Final = 500
_MAX_DATA_BYTES: Final = 16_384


class CheckFailedError(Exception):
    """A failed check, with a detail that is shown to authorized callers; the text of other exceptions is only logged.

    Args:
        detail: why the check fails, as an object with a text.
        data: measurements to report despite the failure, as an object that can be serialized as JSON.
    """

    def __init__(self, detail: object, data: Mapping[str, Any] | None = None) -> None:
        self.detail = to_text(detail)
        self.data = data
        super().__init__(self.detail)


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A named function that is called periodically; the check passes if it returns, and fails if it raises.

    A coroutine function runs on the kit's event loop; any other function runs in its own thread, and may return an
    awaitable. The function returns None, a text, or a mapping that can be serialized as JSON; text and mapping are
    shown in the details. False counts as a failure.

    Args:
        name: a unique, printable name of at most 64 characters.
        function: the function to call, without arguments.
        critical: whether the kit is not ready while the check fails.
        timeout: seconds after which a run counts as failed.
        period: seconds from the start of one run to the start of the next.

    Raises:
        ConfigurationError: a value is invalid.
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
            or len(name) > _MAX_NAME_LENGTH
            or not name.isprintable()
        ):
            raise ConfigurationError(
                f"a health check needs a printable name of 1 to {_MAX_NAME_LENGTH} characters, not {name!r}"
            )
        if not callable(self.function):
            raise ConfigurationError(
                f"the health check {name} needs a function to call, not {type(self.function).__name__}"
            )
        for function in (self.function, self._call_method):
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise ConfigurationError(
                    f"the health check {name} is a generator function, and calling one runs nothing; "
                    "use return instead of yield"
                )
        for field in ("timeout", "period"):
            value: object = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86_400:
                raise ConfigurationError(
                    f"the health check {name} needs a {field} of more than 0 seconds and at most a day, not {value!r}"
                )

    @property
    def is_coroutine_function(self) -> bool:
        """Whether calling the function only creates a coroutine, which cannot block."""
        return is_coroutine_function(self.function)

    @property
    def stale_seconds(self) -> float:
        """The age in seconds above which an observation is stale."""
        return STALE_PERIODS * max(self.period, self.timeout)

    @property
    def _call_method(self) -> object:
        return getattr(self.function, "__call__", None)  # noqa: B004  # of a callable object


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
    """Return the detail and the data in the return value of a check.

    Raises:
        CheckFailedError: the value is False, is not JSON, or is an awaitable or a generator.
    """
    if result is False:
        raise CheckFailedError("returned False")
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()
        raise CheckFailedError(f"returned a {type(result).__name__}, which is not executed")
    if isinstance(result, str):
        return truncate_detail(result), None
    if isinstance(result, Mapping):
        return "", copy_data(result)
    return "", None


def copy_data(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a copy of the data as plain JSON values, unaffected by later changes to the original.

    Raises:
        CheckFailedError: the data cannot be serialized as JSON, or is too large.
    """
    try:
        encoded = orjson.dumps(dict(data), default=_plain)
    except Exception as error:  # a mapping of the host's can raise anything
        raise CheckFailedError("returned data that is not JSON") from error
    if len(encoded) > _MAX_DATA_BYTES:
        raise CheckFailedError(f"returned more than {_MAX_DATA_BYTES} bytes of JSON")
    copy: Mapping[str, Any] = orjson.loads(encoded)
    return copy


def truncate_detail(detail: object) -> str:
    """Return the text of a detail on one line, in printable characters and at most 500 of them."""
    line = "".join(each if each.isprintable() else " " for each in to_text(detail)[: _MAX_DETAIL_LENGTH + 1])
    return (
        line
        if len(line) <= _MAX_DETAIL_LENGTH
        else line[: _MAX_DETAIL_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )


def to_text(value: object) -> str:
    """Return ``str(value)``, or the name of the class if that is empty or raises."""
    if isinstance(value, str):
        return value
    try:
        text = str(value)
    except BaseException:  # the host's code, which can raise anything
        text = ""
    return text or type(value).__name__


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
