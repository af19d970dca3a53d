"""The floor: the least work for correct responses, with raw ASGI, an asyncpg pool and orjson.

No framework, no schema library, no observability. The pool's reset query is off, so that a read is one round trip. A
verified token is cached until it expires, so that later requests only look it up in a dict: acceptable here, because
this peer shows what the machine can do, not what a team should deploy. Of a body only what the statement needs is read.
"""

from __future__ import annotations

import time
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from uuid import UUID

import asyncpg
import orjson
from joserfc.errors import JoseError

from peers.common import (
    API,
    DATABASE_URL,
    FIELDS,
    TABLE,
    decode_cursor,
    encode_cursor,
    new_record,
    verify_token,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

PROJECTS = f"{API}/projects"
HEALTH = f"{API}/health/live"
AS_TEXT = ("id", "tags", "metadata")
COLUMNS = ", ".join(f"{name}::text AS {name}" if name in AS_TEXT else name for name in FIELDS)
GET = f"SELECT {COLUMNS} FROM {TABLE} WHERE id = $1 AND owner_id = $2"
LIVE = f"SELECT {COLUMNS} FROM {TABLE} AS p WHERE owner_id = $1 AND archived_at IS NULL"
NEWEST = "ORDER BY p.created_at DESC, p.id LIMIT $2"
LIST = f"{LIVE} {NEWEST}"
LIST_AFTER = f"{LIVE} AND created_at <= $3 AND (created_at < $3 OR p.id > $4) {NEWEST}"
INSERT = (
    f"INSERT INTO {TABLE} ({', '.join(FIELDS)}) VALUES ({', '.join(f'${n + 1}' for n in range(len(FIELDS)))})"
)


class RefusedError(Exception):
    """An error response with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def keep_as_is(_connection: object) -> None:
    """Replace the pool's reset query, because nothing here changes a connection's state."""


def as_json(row: asyncpg.Record) -> dict[str, Any]:
    """Return a row for orjson; JSON from PostgreSQL is passed through as it is."""
    return dict(row) | {"tags": orjson.Fragment(row["tags"]), "metadata": orjson.Fragment(row["metadata"])}


def as_date(text: str | None) -> date | None:
    """Return the value of a date column."""
    return None if text is None else date.fromisoformat(text)


class Floor:
    """The ASGI application."""

    pool: asyncpg.Pool

    def __init__(self) -> None:
        self.tokens: dict[bytes, tuple[str, int]] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        try:
            status, body = await self.answer(scope, receive)
        except RefusedError as refusal:
            status, body = refusal.status, b'{"detail":"refused"}'
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def live(self, receive: Receive, send: Send) -> None:
        """Handle the lifespan: open the pool at startup and close it at shutdown."""
        await receive()
        self.pool = await asyncpg.create_pool(DATABASE_URL, min_size=16, max_size=16, reset=keep_as_is)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def answer(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[int, bytes]:
        """Call the handler of the request's path."""
        path, method = scope["path"], scope["method"]
        if path == HEALTH:
            return 200, b'{"status":"ok"}'
        if not path.startswith(PROJECTS):
            raise RefusedError(404)
        owner = self.owner(scope)
        if path != PROJECTS:
            return 200, await self.get(path[len(PROJECTS) + 1 :], owner)
        if method == "POST":
            return 201, await self.create(await read(receive), owner)
        return 200, await self.list(scope["query_string"], owner)

    def owner(self, scope: MutableMapping[str, Any]) -> str:
        """Return the subject of the bearer token."""
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        known = self.tokens.get(header)
        if known is None:
            scheme, _, token = header.partition(b" ")
            if scheme.lower() != b"bearer":
                raise RefusedError(401)
            try:
                claims = verify_token(token.decode("ascii"))
            except (JoseError, ValueError) as error:
                raise RefusedError(401) from error
            known = self.tokens[header] = (claims["sub"], claims["exp"])
        if known[1] <= time.time():
            raise RefusedError(401)
        return known[0]

    async def get(self, project_id: str, owner: str) -> bytes:
        """Return a project of this owner."""
        try:
            row = await self.pool.fetchrow(GET, UUID(project_id), owner)
        except ValueError as error:
            raise RefusedError(404) from error
        if row is None:
            raise RefusedError(404)
        return orjson.dumps(as_json(row), option=orjson.OPT_UTC_Z)

    async def list(self, query_string: bytes, owner: str) -> bytes:
        """Return a page of the owner's projects, newest first."""
        query = parse_qs(query_string.decode("latin-1"))
        try:
            limit = int(query.get("limit", ["20"])[0])
            after = [decode_cursor(query["cursor"][0])] if "cursor" in query else []
        except ValueError as error:
            raise RefusedError(422) from error
        if not 1 <= limit <= 100:
            raise RefusedError(422)
        if after:
            rows = await self.pool.fetch(LIST_AFTER, owner, limit + 1, *after[0])
        else:
            rows = await self.pool.fetch(LIST, owner, limit + 1)
        page = rows[:limit]
        more = encode_cursor(page[-1]["created_at"], page[-1]["id"]) if len(rows) > limit else None
        answer = {"items": [as_json(row) for row in page], "next_cursor": more, "total": None}
        return orjson.dumps(answer, option=orjson.OPT_UTC_Z)

    async def create(self, body: bytes, owner: str) -> bytes:
        """Create a project and return it."""
        try:
            record = new_record(owner, orjson.loads(body))
            stored = record | {
                "tags": orjson.dumps(record["tags"]).decode(),
                "metadata": orjson.dumps(record["metadata"]).decode(),
                "start_date": as_date(record["start_date"]),
                "due_date": as_date(record["due_date"]),
            }
            await self.pool.execute(INSERT, *[stored[name] for name in FIELDS])
        except (KeyError, TypeError, ValueError, asyncpg.DataError) as error:
            raise RefusedError(422) from error
        return orjson.dumps(record, option=orjson.OPT_UTC_Z)


async def read(receive: Receive) -> bytes:
    """Return the complete body of a request."""
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


def create_app() -> Floor:
    """Create the application, for uvicorn's ``--factory``."""
    return Floor()
