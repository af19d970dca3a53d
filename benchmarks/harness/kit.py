"""projkit as one of the servers: its command, and its table with the peers' rows."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

from peers.common import DATABASE_URL, SECRET
from peers.common import TABLE as PEERS

from harness.servers import ServerError, Spec, find_kit
from projkit import ProjKit, Settings
from projkit.auth.session_service import Client
from projkit.testing.internals import Internals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TABLE = "projkit_projects"
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/9")
REDIS_PREFIX = "projkit-bench:"
SCOPES = ("projects:read", "projects:write")
_SHARED_COLUMNS = (
    "id, owner_id, name, description, status, tags, start_date, due_date, metadata, external_id, archived_at, "
    "completed_at, created_at, updated_at, version"
)
COPY = f"""
INSERT INTO {TABLE} (created_by, search_text, priority, {_SHARED_COLUMNS})
SELECT owner_id, lower(name || E'\\n' || description),
    array_position(ARRAY['low', 'medium', 'high', 'critical'], priority) - 1, {_SHARED_COLUMNS}
FROM {PEERS} ORDER BY created_at
"""


def make_token(subject: str) -> str:
    """Return an access token of a session in Redis, as from a login, that is valid for longer than the run."""
    return make_tokens([subject])[0]


def make_tokens(subjects: Iterable[str]) -> list[str]:
    """Return a token for each subject, as :func:`make_token`."""
    return asyncio.run(_log_in(subjects))


async def _log_in(subjects: Iterable[str]) -> list[str]:
    seconds = 86_400
    settings = Settings(
        database_url=DATABASE_URL,
        secret=SECRET,
        redis_url=REDIS_URL,
        redis_prefix=REDIS_PREFIX,
        access_token_seconds=seconds,
        session_idle_seconds=seconds,
        session_max_seconds=seconds,
    )
    kit = ProjKit(settings)
    async with kit.lifespan():
        sessions = Internals(kit).running.auth.sessions
        client = Client("127.0.0.1", "benchmark")
        return [
            (await sessions.open(subject, SCOPES, "", "body", client)).access_token for subject in subjects
        ]


def migrate(environment: Mapping[str, str]) -> None:
    """Migrate the benchmark's database to the kit's schema."""
    subprocess.run([_command(), "migrate"], check=True, env=dict(environment), capture_output=True)


def spec() -> Spec:
    """Return ``projkit serve`` with one worker, sessions in Redis, and without an access log, like the peers."""

    def command(port: int) -> list[str]:
        return [_command(), "serve", "--port", str(port), "--no-access-log"]

    variables = {"PROJKIT_REDIS_URL": REDIS_URL, "PROJKIT_REDIS_PREFIX": REDIS_PREFIX}
    return Spec("projkit", "projkit serve", command, make_token, TABLE, is_kit=True, variables=variables)


def _command() -> str:
    command = find_kit()
    if command is None:
        raise ServerError("the command projkit is missing: pip install .")
    return command
