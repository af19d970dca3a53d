"""What is counted, and in which cells."""

from typing import Final

from projkit.telemetry.buckets import SIZE
from projkit.telemetry.cells import Family

# After the buckets of a histogram:
SUM: Final = SIZE
MAX: Final = SIZE + 1
LAST_ERROR: Final = SIZE + 2  # seconds since 1970
SLOW: Final = SIZE + 3

HTTP: Final = Family(
    "http", SIZE + 4, maxima=frozenset({MAX, LAST_ERROR}), limit=1000
)  # method, route, status
DISCONNECTS: Final = Family("http_disconnects", limit=500)  # method, route
ACTIVE: Final = Family("http_active", gauge=True)
WEBSOCKETS: Final = Family("websockets", 2, limit=200)  # route, outcome: how many, seconds they were open
STATEMENTS: Final = Family(
    "db_statements", SIZE + 2, maxima=frozenset({MAX}), limit=300
)  # operation, collection
SLOW_STATEMENTS: Final = Family(
    "db_slow_statements", 3, maxima=frozenset({2}), limit=100
)  # text: count, sum, max
DATABASE_ERRORS: Final = Family("db_errors", limit=100)  # class
TRANSACTIONS: Final = Family("db_transactions")  # committed, rolled_back
POOL_WAIT: Final = Family("db_pool_wait", SIZE + 2, maxima=frozenset({MAX}))
POOL: Final = Family("db_pool", gauge=True)  # state

EXCEPTIONS: Final = Family("http_exceptions", limit=200)  # route, class
CREDENTIALS: Final = Family("auth_credentials", limit=100)  # transport, format, outcome
CSRF_CHECKS: Final = Family("auth_csrf_checks", limit=20)  # mode, outcome

FAMILIES: Final = (
    HTTP, DISCONNECTS, EXCEPTIONS, ACTIVE, WEBSOCKETS, STATEMENTS, SLOW_STATEMENTS, DATABASE_ERRORS, TRANSACTIONS,
    POOL_WAIT, POOL, CREDENTIALS, CSRF_CHECKS,
)  # fmt: skip
# Room for all rows of all families up to their limits, with their names; what is not used takes no memory.
FILE_BYTES: Final = 4 * 1024 * 1024
OTHER: Final = "__other__"
UNKNOWN: Final = "__unknown__"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OTHER_METHOD: Final = "_OTHER"  # OTel semantic conventions, http.request.method
