"""The lock that lets one migration run at a time on a PostgreSQL database.

It is an advisory lock of a transaction that stays open, on a connection of its own: PgBouncer in transaction mode keeps
this transaction on one connection to the server, where a session's lock would be left behind on any of them. Between
its statements the transaction has no snapshot and no locks of tables, so that neither vacuum nor ``CREATE INDEX
CONCURRENTLY`` waits for it. For the same reason nothing may block in ``pg_advisory_xact_lock``: a statement that waits
there has a snapshot, for which the migration that holds the lock would have to wait.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from projkit.db.migrations.progress import Progress
from projkit.db.port import T
from projkit.db.postgresql_connector import PostgresqlConnector

# An arbitrary number, which must be the same in every version of projkit.
_KEY: Final = 0x70726F6A6B6975
_TRY: Final = f"SELECT pg_try_advisory_xact_lock({_KEY})"
# Servers and roles can have time limits, which a migration of a large table would exceed.
_NO_TIME_LIMITS: Final = (
    "SELECT set_config(name, '0', true) FROM pg_settings "
    "WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
)
# The portal of a query with results keeps its snapshot until the next statement in a simple message replaces it.
_RELEASE_SNAPSHOT: Final = "SELECT 1"
_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 2.0
HEARTBEAT_SECONDS: Final = 1.0


async def run_alone(
    url: str,
    work: Callable[[], Awaitable[T]],
    *,
    connect_seconds: float,
    progress: Progress,
) -> T:
    """Wait until no other migration runs on the database, and run ``work``; cancel it if the lock is lost."""
    connection = await PostgresqlConnector(url, connect_seconds=connect_seconds)()
    try:
        await _acquire(connection, progress)
        return await _guarded(work, _beat(connection))
    finally:
        connection.terminate()  # rolls back without waiting for a server that may be gone


async def _acquire(connection: Any, progress: Progress) -> None:
    delay = _FIRST_WAIT_SECONDS
    while True:
        # At a higher level of isolation, which a role can have as its default, the transaction would keep a snapshot.
        await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        await connection.fetch(_NO_TIME_LIMITS)
        if await connection.fetchval(_TRY):
            await connection.execute(_RELEASE_SNAPSHOT)
            return
        await connection.execute("ROLLBACK")
        progress.wait("another migration is running on this database")
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LONGEST_WAIT_SECONDS)


async def _beat(connection: Any) -> None:
    """Keep the connection open, and fail if it is lost."""
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        # SHOW needs no snapshot. If CREATE INDEX CONCURRENTLY begins to wait for others in the moment in
        # which this transaction has one, it waits until the transaction ends.
        await connection.execute("SHOW server_version")


async def _guarded(work: Callable[[], Awaitable[T]], beat: Any) -> T:
    try:
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(beat)
            result = await work()
            beating.cancel()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return result
