"""The checks ``database``, ``migrations`` and ``clock``: one probe serves them all."""

import inspect
from collections.abc import Callable
from functools import partial
from time import perf_counter, time
from typing import Any, Final

from projkit.db import revisions
from projkit.db.errors import FAILURES
from projkit.db.probe import DatabaseProbe
from projkit.health.checks import CheckFailedError, HealthCheck

TIMEOUT_SECONDS: Final = 1.0
_SLOW_PERIOD_SECONDS: Final = 60.0
MOST_SECONDS_APART: Final = 2.0


def database_checks(probe: DatabaseProbe) -> list[HealthCheck]:
    """The checks of one database; SQLite has no clock but this machine's."""
    checks = [
        HealthCheck("database", _on(probe.ping, _is_well), critical=True, timeout=TIMEOUT_SECONDS),
        HealthCheck(
            "migrations",
            _on(probe.revision, _is_newest),
            timeout=TIMEOUT_SECONDS,
            period=_SLOW_PERIOD_SECONDS,
        ),
    ]
    if probe.dialect != "sqlite":
        clock = partial(_agrees, probe)
        checks.append(HealthCheck("clock", clock, timeout=TIMEOUT_SECONDS, period=_SLOW_PERIOD_SECONDS))
    return checks


def _on(ask: Callable[[], Any], judge: Callable[[Any], Any]) -> Callable[[], Any]:
    """A check of what is asked, in a thread or on the event loop, as asking needs it."""
    if not inspect.iscoroutinefunction(ask):

        def in_thread() -> Any:
            try:
                return judge(ask())
            except FAILURES as error:
                raise _failure(error) from error

        return in_thread

    async def on_loop() -> Any:
        try:
            return judge(await ask())
        except FAILURES as error:
            raise _failure(error) from error

    return on_loop


def _is_well(_: object) -> None:
    """An answer is all that was wanted."""


def _is_newest(revision: str | None) -> dict[str, str]:
    revisions.require(revision)
    return {"revision": revision or ""}


async def _agrees(probe: DatabaseProbe) -> dict[str, float]:
    before = perf_counter()
    try:
        answer: Any = probe.now()
        theirs = float(await answer if inspect.isawaitable(answer) else answer)
    except FAILURES as error:
        raise _failure(error) from error
    # Half of the way there and back after the question the database looked at its clock.
    apart = theirs - (time() - (perf_counter() - before) / 2)
    data = {"seconds_apart": round(apart, 3)}
    if abs(apart) > MOST_SECONDS_APART:
        raise CheckFailedError(
            f"{abs(apart):.1f} s {'behind' if apart > 0 else 'ahead of'} the database's; let NTP set both clocks",
            data,
        )
    return data


def _failure(error: BaseException) -> CheckFailedError:
    # SQLAlchemy's text repeats the statement; the driver's may name users and hosts, and goes to the log alone.
    reason = getattr(error, "orig", None) or error
    said = "does not answer in time" if isinstance(reason, TimeoutError) else "does not answer"
    failed = CheckFailedError(f"{said} ({type(reason).__name__})")
    failed.__cause__ = reason
    return failed
