"""Events that a kit records: requests, authentication, database, Redis, health and traces.

Each event is defined once, as a method of :class:`Observer`, which discards it. The kit's
:class:`~projkit.telemetry.recorder.Recorder` overrides them all; ``telemetry/series.py`` names the metric that each
becomes. Where nothing is recorded, as in a single command or a self-test, pass :data:`NULL_OBSERVER`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Literal, Protocol, get_args

from projkit.errors import RateLimitedError, UnauthenticatedError, UnavailableError
from projkit.request_stats import StatementInfo

RejectionReason = Literal["queue_full", "waited_too_long"]
REJECTION_REASONS: Final[tuple[RejectionReason, ...]] = get_args(RejectionReason)
SPAN_OUTCOMES: Final = ("exported", "failed", "dropped")
# How often an event loop shows that it runs.
HEARTBEAT_SECONDS: Final = 0.5


class DurationMeters(Protocol):
    """Receiver of the durations of requests, statements and commands, for OpenTelemetry metrics."""

    def record_request(
        self, scope: MutableMapping[str, Any], route: str, status: int, seconds: float
    ) -> None:
        """Record a response to a request that no instrumentation around the kit records."""

    def record_statement(self, statement: StatementInfo, seconds: float, error: BaseException | None) -> None:
        """Record a database statement that has ended."""

    def record_command(self, operation: str, seconds: float, error: BaseException | None) -> None:
        """Record a Redis command that has ended."""


class Observer:
    """Receiver of all events; this one discards them.

    Methods are called while requests are served, so an implementation must neither block nor raise.

    Attributes:
        slow_seconds: the duration above which a request is logged as slow.
        client_of: returns a client's address for log lines, if they are to contain it.
        meters: additional receiver of durations, where the host has an OpenTelemetry ``MeterProvider``.
    """

    slow_seconds: float = math.inf
    client_of: Callable[[MutableMapping[str, Any]], str] | None = None
    meters: DurationMeters | None = None

    # --- requests

    def begin_request(self) -> None:
        """Record the start of a request."""

    def end_request(self) -> None:
        """Record the end of a request, whatever its outcome."""

    def record_request(
        self, method: str, route: str, status: int, seconds: float, trace_id: str | None = None
    ) -> None:
        """Record a response; ``trace_id`` names a trace that is kept, to be shown as an exemplar."""

    def record_disconnect(self, method: str, route: str) -> None:
        """Record a client that disconnected before the response."""

    def record_exception(self, route: str, error_type: str) -> None:
        """Record an unexpected exception, by the name of its class."""

    def record_websocket(self, route: str, outcome: str, seconds: float) -> None:
        """Record the end of a WebSocket.

        ``outcome`` is ``accepted``, ``refused`` or ``failed``; ``seconds`` is how long it was open.
        """

    # --- the request queue

    def change_queue_length(self, change: int) -> None:
        """Add ``change`` to the number of queued requests."""

    def record_rejection(self, reason: RejectionReason) -> None:
        """Record a request that was rejected because of overload."""

    # --- authentication

    def record_credential(self, transport: str, token_format: str, outcome: str) -> None:
        """Record a credential of a request: ``accepted``, ``refused`` or, beside a stronger one, ``ignored``."""

    def record_csrf_check(self, mode: str, outcome: str) -> None:
        """Record a CSRF check: ``accepted``, ``accepted_without_token`` or ``refused``."""

    def record_login(self, method: str, outcome: str) -> None:
        """Record a login by ``password`` or ``oidc``.

        ``outcome`` is ``succeeded``, ``failed``, ``limited``, ``unavailable`` or ``error``.
        """

    def record_refresh(self, outcome: str) -> None:
        """Record the use of a refresh token.

        ``outcome`` is ``rotated``, ``replayed`` (a retry), ``reused`` (by one of two holders of the token),
        ``refused``, ``revoked`` (by the host's ``still_valid``) or ``unavailable``.
        """

    # --- the database

    def record_statement(self, statement: StatementInfo, seconds: float, error: BaseException | None) -> None:
        """Record a statement that has ended."""

    def record_transaction(self, *, committed: bool) -> None:
        """Record the end of a transaction."""

    def record_pool_wait(self, seconds: float) -> None:
        """Record how long a statement or transaction waited for its connection."""

    def record_pool_connections(self, states: Mapping[str, int]) -> None:
        """Record the number of this worker's connections in each state."""

    def record_cleanup(self, kind: str, rows: int) -> None:
        """Record ``rows`` rows of a kind that were due and have been removed."""

    def record_cleanup_backlog(self, kind: str, seconds: float) -> None:
        """Record for how long the oldest row of a kind has been due for removal; 0 if none is."""

    # --- Redis

    def record_command(self, operation: str, seconds: float, error: BaseException | None) -> None:
        """Record a command that has ended; ``operation`` is its name (``HGET``, ``EVAL``), never a key or value."""

    # --- health

    def record_health_check(
        self,
        name: str,
        *,
        critical: bool,
        healthy: bool | None,
        seconds: float,
        valid_seconds: float,
        failing_since: datetime | None = None,
    ) -> None:
        """Record the result of a health check, None before the first one.

        It is valid for ``valid_seconds``; ``failing_since`` is the first failure since the check last succeeded.
        """

    def end_health_check(self, name: str) -> None:
        """Record that this process no longer runs a health check."""

    def record_heartbeat(self, lag_seconds: float) -> None:
        """Record that the event loop runs, and its greatest lag within the last ten seconds.

        Called every :data:`HEARTBEAT_SECONDS`: a reader takes a missing call for a blocked event loop.
        """

    def end_heartbeat(self) -> None:
        """Record that the event loop has ended; can be called from any thread."""

    # --- worker processes

    def record_worker_exits(self, totals: Mapping[str, int]) -> None:
        """Record the number of workers that have ended since the server started, by reason."""

    # --- traces

    def record_spans(self, outcome: str, count: int) -> None:
        """Record ``count`` spans that were ``exported``, ``failed`` at the collector, or ``dropped`` before it."""


NULL_OBSERVER: Final = Observer()


@contextmanager
def record_failed_login(observer: Observer, method: str) -> Iterator[None]:
    """Record a login as not successful if the body raises."""
    try:
        yield
    except UnauthenticatedError:
        observer.record_login(method, "failed")
        raise
    except RateLimitedError:
        observer.record_login(method, "limited")
        raise
    except UnavailableError:
        observer.record_login(method, "unavailable")
        raise
    except Exception:
        observer.record_login(method, "error")
        raise
