"""The checks ``database``, ``migrations`` and ``clock``, which share one probe."""

import inspect
from collections.abc import Callable
from functools import partial
from time import perf_counter, time
from typing import Any, Final

from projkit.db import revisions
from projkit.db.errors import DRIVER_ERRORS
from projkit.db.probe import DatabaseProbe
from projkit.health.checks import CheckFailedError, HealthCheck

TIMEOUT_SECONDS: Final = 1.0
_SLOW_PERIOD_SECONDS: Final = 60.0
MAX_CLOCK_SKEW_SECONDS: Final = 2.0


def database_checks(probe: DatabaseProbe) -> list[HealthCheck]:
    """Create the checks of a database; SQLite has no ``clock``, because it uses this machine's."""
    checks = [
        HealthCheck(
            "database",
            _query_check(probe.accepts_writes, _require_writable),
            critical=True,
            timeout=TIMEOUT_SECONDS,
        ),
        HealthCheck(
            "migrations",
            _query_check(probe.revision, _require_usable),
            timeout=TIMEOUT_SECONDS,
            period=_SLOW_PERIOD_SECONDS,
        ),
    ]
    if probe.dialect != "sqlite":
        clock = partial(_check_clock, probe)
        checks.append(HealthCheck("clock", clock, timeout=TIMEOUT_SECONDS, period=_SLOW_PERIOD_SECONDS))
    return checks


def _query_check(query: Callable[[], Any], evaluate: Callable[[Any], Any]) -> Callable[[], Any]:
    """Create a check that evaluates the result of a query; it is a coroutine function if the query is one."""
    if not inspect.iscoroutinefunction(query):

        def in_thread() -> Any:
            try:
                return evaluate(query())
            except DRIVER_ERRORS as error:
                raise _failure(error) from error

        return in_thread

    async def on_loop() -> Any:
        try:
            return evaluate(await query())
        except DRIVER_ERRORS as error:
            raise _failure(error) from error

    return on_loop


def _require_writable(writable: bool) -> None:
    if not writable:
        raise CheckFailedError(
            "read-only: the server rejects writes (a standby, a server that fails over, "
            "or default_transaction_read_only)"
        )


def _require_usable(value: str | None) -> dict[str, str]:
    revision = revisions.require_supported(revisions.SchemaRevision.parse(value))
    return {"revision": revision}


async def _check_clock(probe: DatabaseProbe) -> dict[str, float]:
    before = perf_counter()
    try:
        now: Any = probe.now()
        database_time = float(await now if inspect.isawaitable(now) else now)
    except DRIVER_ERRORS as error:
        raise _failure(error) from error
    # The database is assumed to have read its clock halfway through the round trip.
    skew = database_time - (time() - (perf_counter() - before) / 2)
    data = {"seconds_apart": round(skew, 3)}
    if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
        raise CheckFailedError(
            f"{abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the database's clock; synchronize both with NTP",
            data,
        )
    return data


def _failure(error: BaseException) -> CheckFailedError:
    # SQLAlchemy's message repeats the statement, and the driver's can name users and hosts: it is only logged.
    reason = getattr(error, "orig", None) or error
    summary = "timed out" if isinstance(reason, TimeoutError) else "unavailable"
    failed = CheckFailedError(f"{summary} ({type(reason).__name__})")
    failed.__cause__ = reason
    return failed
