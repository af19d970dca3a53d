"""The families of samples that the recorder counts, and the indices of their values.

:mod:`projkit.telemetry.series` declares the Prometheus metrics that are computed from them.

Workers of two versions share a directory while they are replaced. They leave out samples of each other whose number of
labels or values differs. If labels or values only change their meaning, the family needs another name.
"""

from typing import Final

from projkit.telemetry import exemplars
from projkit.telemetry.buckets import SIZE
from projkit.telemetry.store import Family

# After the buckets of a histogram.
SUM: Final = SIZE
MAX: Final = SIZE + 1
LAST_ERROR: Final = SIZE + 2  # seconds since 1970
SLOW: Final = SIZE + 3

# Of a health check.
HEALTHY: Final = 0
CRITICAL: Final = 1
LATENCY: Final = 2
VALID_UNTIL: Final = 3  # on the machine's monotonic clock; 0 if the check no longer runs
FAILING_SINCE: Final = 4  # seconds since 1970; infinity while it succeeds
NO_RESULT: Final = -1.0  # instead of the status, before the first result

# Of an event loop.
LAG: Final = 0
HEARTBEAT: Final = 1  # when it last ran, on the machine's monotonic clock; 0 if it has ended

HTTP: Final = Family(
    "http", SIZE + 4, labels=3, maxima=frozenset({MAX, LAST_ERROR}), limit=1000
)  # method, route, status
EXEMPLARS: Final = Family(
    "http_exemplars", exemplars.WIDTH, labels=3, combine=exemplars.keep_latest, limit=HTTP.limit
)  # method, route, status
DISCONNECTS: Final = Family("http_disconnects", labels=2, limit=500)  # method, route
EXCEPTIONS: Final = Family("http_exceptions", labels=2, limit=200)  # route, class
ROUTES: Final = Family("http_routes", labels=2, maxima=frozenset({0}), limit=200)  # of the kit: route, kind
ACTIVE: Final = Family("http_active", gauge=True, limit=1)
QUEUED: Final = Family("http_queued", gauge=True, limit=1)
REJECTED: Final = Family("http_rejected", labels=1, limit=10)  # reason
WEBSOCKETS: Final = Family("websockets", 2, labels=2, limit=200)  # route, outcome: number, seconds open
STATEMENTS: Final = Family(
    "db_statements", SIZE + 2, labels=2, maxima=frozenset({MAX}), limit=300
)  # operation, collection
SLOW_STATEMENTS: Final = Family(
    "db_slow_statements", 3, labels=1, maxima=frozenset({2}), limit=100
)  # SQL text: count, sum, max
DATABASE_ERRORS: Final = Family("db_errors", labels=1, limit=100)  # class
TRANSACTIONS: Final = Family("db_transactions", labels=1, limit=10)  # committed, rolled_back
POOL_WAIT: Final = Family("db_pool_wait", SIZE + 2, maxima=frozenset({MAX}), limit=1)
POOL: Final = Family("db_pool", labels=1, gauge=True, limit=20)  # state
CLEANUP: Final = Family("db_cleanup", labels=1, limit=20)  # kind
# Each worker measures the same rows.
CLEANUP_BACKLOG: Final = Family(
    "db_cleanup_backlog", labels=1, maxima=frozenset({0}), gauge=True, limit=20
)  # kind
COMMANDS: Final = Family("redis_commands", SIZE + 2, labels=1, maxima=frozenset({MAX}), limit=50)  # operation
REDIS_ERRORS: Final = Family("redis_errors", labels=1, limit=100)  # class
CREDENTIALS: Final = Family("auth_credentials", labels=3, limit=100)  # transport, format, outcome
CSRF_CHECKS: Final = Family("auth_csrf_checks", labels=2, limit=20)  # mode, outcome
LOGINS: Final = Family("auth_logins", labels=2, limit=20)  # method, outcome
REFRESHES: Final = Family("auth_refreshes", labels=1, limit=10)  # outcome
# With the process in the labels, so that a reader can tell which worker no longer runs.
EVENT_LOOP: Final = Family(
    "event_loop", 2, labels=1, maxima=frozenset({LAG}), minima=frozenset({HEARTBEAT}), gauge=True, limit=1
)  # pid
HEALTH: Final = Family(
    "health_checks", 5, labels=2, maxima=frozenset({CRITICAL, LATENCY}),
    minima=frozenset({HEALTHY, VALID_UNTIL, FAILING_SINCE}),
    gauge=True, limit=100,
)  # name, pid  # fmt: skip
SPANS: Final = Family("otel_spans", labels=1, limit=10)  # outcome
DEGRADED: Final = Family("store_degraded", maxima=frozenset({0}), gauge=True, limit=1)
# Totals that the parent of the workers counts and tells all of them, so that the largest is the latest.
WORKER_EXITS: Final = Family("worker_exits", labels=1, maxima=frozenset({0}), limit=20)  # reason

FAMILIES: Final = (
    HTTP, EXEMPLARS, DISCONNECTS, EXCEPTIONS, ROUTES, ACTIVE, QUEUED, REJECTED, WEBSOCKETS, STATEMENTS, SLOW_STATEMENTS,
    DATABASE_ERRORS, TRANSACTIONS, POOL_WAIT, POOL, CLEANUP, CLEANUP_BACKLOG, COMMANDS, REDIS_ERRORS,
    CREDENTIALS, CSRF_CHECKS, LOGINS, REFRESHES, EVENT_LOOP, HEALTH, SPANS, WORKER_EXITS, DEGRADED,
)  # fmt: skip
# Room for all samples of all families up to their limits, with the longest labels.
FILE_BYTES: Final = 13 * 512 * 1024
OTHER: Final = "__other__"
UNKNOWN: Final = "__unknown__"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OTHER_METHOD: Final = "_OTHER"  # OTel semantic conventions, http.request.method
OTHER_STATUS: Final = "_OTHER"
