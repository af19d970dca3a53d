"""Sessions in Redis (6.2 or newer): one hash per subject, which holds all sessions of the subject.

A separate index of a subject's sessions could be evicted without them, and "log out everywhere" would then miss some.
With one hash, the sessions of a subject are found, ended, evicted and expired together.

Beside the hash there is a sorted set of its sessions by age, so that a page of the list costs the same however many
there are. Only lists read it. A list that finds fewer sessions in it than in the hash adds those that are missing.

Both keys lie in one slot of a Cluster, and each operation is one command or one script, so it is atomic.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import orjson

from projkit.auth.sessions.port import (
    MAX_EXCESS,
    ListPosition,
    Rotation,
    Session,
    SessionActivity,
    SessionKey,
    sha256_hex,
    subject_hash,
)
from projkit.errors import SessionStoreUnavailableError
from projkit.observers import NULL_OBSERVER, Observer
from projkit.redis.connect import RedisClient, RedisCommands

T = TypeVar("T")
logger: Final = logging.getLogger("projkit.auth")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TIMES: Final = frozenset({"rotated_at", "created_at", "used_at", "idle_expires_at", "expires_at"})
_FIELDS: Final = tuple(Session.__slots__)

# A script that reads or deletes more would block Redis.
_BATCH: Final = 200
# Those of a time in microseconds from 2001 to 2286; times in the index are ordered as texts.
_DIGITS: Final = 16

# All values are text: cjson would write a time in microseconds with fourteen digits.
_CONSTANTS: Final = f"local DIGITS, MAX_EXCESS = {_DIGITS}, {MAX_EXCESS}"
_FUNCTIONS: Final = (
    _CONSTANTS
    + """
local function read(id, raw)
    local readable, held = pcall(cjson.decode, raw)
    if not readable or type(held) ~= 'table' or not tonumber(held.created_at) then return nil, 0 end
    local ends = math.min(tonumber(held.idle_expires_at) or 0, tonumber(held.expires_at) or 0)
    return held.created_at .. id, ends
end
local function delete(id, raw)
    local entry = read(id, raw)
    if entry then redis.call('ZREM', KEYS[2], entry) end
    return redis.call('HDEL', KEYS[1], id)
end
local function excess(new, limit)
    local sessions, number = {}, redis.call('HLEN', KEYS[1]) - tonumber(limit)
    if limit == '0' or number <= 0 then return sessions end
    if redis.call('HLEN', KEYS[1]) > redis.call('ZCARD', KEYS[2]) then return false end
    -- The oldest may be the new one, if the clocks of two servers differ.
    number = math.min(number, MAX_EXCESS)
    for _, entry in ipairs(redis.call('ZRANGE', KEYS[2], 0, number)) do
        local id = string.sub(entry, DIGITS + 1)
        local raw = id ~= new and #sessions < number and redis.call('HGET', KEYS[1], id)
        if raw then sessions[#sessions + 1] = raw end
    end
    return sessions
end
local function keep_for(milliseconds)
    for _, key in ipairs(KEYS) do
        if redis.call('PTTL', key) < tonumber(milliseconds) then redis.call('PEXPIRE', key, milliseconds) end
    end
end
"""
)
# The keys expire with the session that ends last. Each new session checks up to 20 others and deletes expired ones, so
# they are removed without a scan over thousands.
_ADD: Final = (
    _FUNCTIONS
    + """
local seen = redis.call('HRANDFIELD', KEYS[1], 20, 'WITHVALUES')
for i = 1, #seen, 2 do
    local _, ends = read(seen[i], seen[i + 1])
    if ends <= tonumber(ARGV[3]) then delete(seen[i], seen[i + 1]) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, (read(ARGV[1], ARGV[2])))
keep_for(ARGV[4])
return excess(ARGV[1], ARGV[5])
"""
)
_EXCESS: Final = f"{_FUNCTIONS} return excess(ARGV[1], ARGV[2])"
_CHANGE: Final = (
    _FUNCTIONS
    + """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then return 0 end
local held, now = cjson.decode(raw), tonumber(ARGV[3])
if tonumber(held.idle_expires_at) <= now or tonumber(held.expires_at) <= now then return 0 end
if ARGV[2] ~= '' and held.refresh_hash ~= ARGV[2] then return 0 end
for i = 5, #ARGV, 2 do held[ARGV[i]] = ARGV[i + 1] end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(held))
keep_for(ARGV[4])
return 1
"""
)
_END: Final = (
    _FUNCTIONS
    + """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
return raw and delete(ARGV[1], raw) or 0
"""
)
# Two keys are unlinked, however many sessions they hold; another thread of Redis frees the memory.
_END_ALL_BUT: Final = (
    _FUNCTIONS
    + """
local kept = redis.call('HGET', KEYS[1], ARGV[1])
local number, milliseconds = redis.call('HLEN', KEYS[1]), redis.call('PTTL', KEYS[1])
redis.call('UNLINK', KEYS[1], KEYS[2])
if not kept then return number end
redis.call('HSET', KEYS[1], ARGV[1], kept)
local entry = read(ARGV[1], kept)
if entry then redis.call('ZADD', KEYS[2], 0, entry) end
keep_for(milliseconds)
return number - 1
"""
)
# Returns the number of entries that were looked at, the last of them, and the live sessions; nothing if the index is
# incomplete and ARGV[4] is not empty.
_PAGE: Final = (
    _FUNCTIONS
    + f"""
local entries = redis.call('ZREVRANGEBYLEX', KEYS[2], ARGV[2], '-', 'LIMIT', 0, {_BATCH})
local page, number = {{}}, 0
for _, entry in ipairs(entries) do
    if #page == tonumber(ARGV[3]) then break end
    number = number + 1
    local id = string.sub(entry, DIGITS + 1)
    local raw = redis.call('HGET', KEYS[1], id)
    local known, ends = read(id, raw)
    if known == entry and ends > tonumber(ARGV[1]) then
        page[#page + 1] = raw
    else
        redis.call('ZREM', KEYS[2], entry)
        if known == entry then redis.call('HDEL', KEYS[1], id) end
    end
end
if ARGV[4] ~= '' and redis.call('HLEN', KEYS[1]) > redis.call('ZCARD', KEYS[2]) then return false end
return {{number, entries[number] or '', page}}
"""
)
_INDEX: Final = (
    _FUNCTIONS
    + f"""
local scanned = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', {_BATCH})
local held = scanned[2]
for i = 1, #held, 2 do
    local entry = read(held[i], held[i + 1])
    if entry then redis.call('ZADD', KEYS[2], 0, entry) else redis.call('HDEL', KEYS[1], held[i]) end
end
keep_for(redis.call('PTTL', KEYS[1]))
return scanned[1]
"""
)
_ANY: Final = ""


class RedisSessions:
    """A :class:`~projkit.auth.sessions.port.SessionStore` over Redis: single, Sentinel or Cluster."""

    is_durable: Final = False  # replicas lag behind, and even with AOF the last second may be lost

    def __init__(self, client: RedisClient, *, prefix: str, observer: Observer = NULL_OBSERVER) -> None:
        self._redis = RedisCommands(client, SessionStoreUnavailableError, observer)
        self._prefix = prefix

    async def create(self, session: Session, *, limit: int = 0) -> Sequence[Session]:
        now, ends = session.created_at, min(session.idle_expires_at, session.expires_at)
        hashed = session.key.subject_hash
        content, left = _written(session), _left(now, ends)
        values = await self._run(_ADD, hashed, session.id_hash, content, _number(now), left, limit)
        if values is None:
            await self._complete_index(hashed)
            values = await self._run(_EXCESS, hashed, session.id_hash, limit) or ()
        return [excess for each in values if (excess := _read(each, _session)) is not None]

    async def get(self, key: SessionKey, now: datetime) -> SessionActivity | None:
        raw = await self._redis.run("HGET", self._name(key.subject_hash), key.id_hash)
        activity = None if raw is None else _read(raw, _activity)
        return activity if activity is not None and activity.is_live(now) else None

    async def get_fresh(self, key: SessionKey, now: datetime) -> Session | None:
        raw = await self._redis.run("HGET", self._name(key.subject_hash), key.id_hash)
        session = None if raw is None else _read(raw, _session)
        return session if session is not None and session.activity.is_live(now) else None

    async def touch(self, key: SessionKey, now: datetime, idle_expires_at: datetime) -> None:
        changes = {"used_at": _number(now), "idle_expires_at": _number(idle_expires_at)}
        await self._change(key, _ANY, now, idle_expires_at, changes)

    async def rotate(self, key: SessionKey, rotation: Rotation) -> bool:
        at, idle_expires_at = rotation.at, rotation.idle_expires_at
        changes = {
            "refresh_hash": rotation.new_hash,
            "parent_hash": rotation.expected_hash,
            "generation": str(rotation.generation),
            "rotated_at": _number(at),
            "used_at": _number(at),
            "idle_expires_at": _number(idle_expires_at),
        }
        return await self._change(key, rotation.expected_hash, at, idle_expires_at, changes)

    async def revoke(self, key: SessionKey) -> bool:
        return bool(await self._run(_END, key.subject_hash, key.id_hash))

    async def revoke_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> int:
        return int(await self._run(_END_ALL_BUT, subject_hash(tenant_id, subject), keep or ""))

    async def list(
        self, tenant_id: str, subject: str, now: datetime, *, limit: int, after: ListPosition | None = None
    ) -> Sequence[Session]:
        hashed = subject_hash(tenant_id, subject)
        position = "+" if after is None else f"({_number(after.created_at)}{after.id_hash}"
        sessions: list[Session] = []
        require_complete = "yes"
        while True:
            missing = limit - len(sessions)
            reply = await self._run(_PAGE, hashed, _number(now), position, missing, require_complete)
            if reply is None:
                await self._complete_index(hashed)
                require_complete = ""
                continue
            number, last, values = reply
            sessions += [session for each in values if (session := _read(each, _session)) is not None]
            if len(sessions) == limit or (number < _BATCH and len(values) < missing):
                return sessions
            position = f"({last if isinstance(last, str) else last.decode()}"

    async def _complete_index(self, hashed: str) -> None:
        """Add the sessions that another version of the kit has stored, or all if the index was evicted."""
        cursor = "0"
        while int(cursor := await self._run(_INDEX, hashed, cursor)):
            pass

    async def consume(self, value: str, now: datetime, expires_at: datetime) -> bool:
        if now >= expires_at:
            return False
        name = f"{self._prefix}once:{sha256_hex(value)}"
        return bool(await self._redis.run("SET", name, "1", "NX", "PX", _left(now, expires_at)))

    async def ping(self) -> None:
        await self._redis.run("EXISTS", f"{self._prefix}ping")

    async def _change(
        self, key: SessionKey, expected_hash: str, now: datetime, ends: datetime, changes: dict[str, str]
    ) -> bool:
        pairs = [part for pair in changes.items() for part in pair]
        done = await self._run(
            _CHANGE, key.subject_hash, key.id_hash, expected_hash, _number(now), _left(now, ends), *pairs
        )
        return bool(done)

    async def _run(self, script: str, hashed: str, *arguments: str | bytes | int) -> Any:
        index = f"{self._prefix}{{{hashed}}}:sessions-by-age"
        return await self._redis.run("EVAL", script, 2, self._name(hashed), index, *arguments)

    def _name(self, subject: str) -> str:
        return f"{self._prefix}{{{subject}}}:sessions"


def _number(moment: datetime) -> str:
    return str((moment - _EPOCH) // _MICROSECOND)


def _left(now: datetime, ends: datetime) -> int:
    """Return the milliseconds from ``now`` to ``ends``; relative, because Redis has a clock of its own."""
    return max(1, (ends - now) // timedelta(milliseconds=1))


def _written(session: Session) -> bytes:
    values = {name: getattr(session, name) for name in _FIELDS}
    for name in _TIMES:
        values[name] = _number(values[name])
    values["scopes"] = " ".join(session.scopes)
    values["parent_hash"] = session.parent_hash or ""
    values["generation"] = str(session.generation)
    return orjson.dumps(values)


def _read(raw: str | bytes, read: Callable[[dict[str, str]], T]) -> T | None:
    try:
        return read(orjson.loads(raw))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        logger.warning("invalid session data in Redis; the session is treated as ended")
        return None


def _activity(held: dict[str, str]) -> SessionActivity:
    return SessionActivity(
        held["subject"],
        _moment(held["used_at"]),
        _moment(held["idle_expires_at"]),
        _moment(held["expires_at"]),
    )


def _session(held: dict[str, str]) -> Session:
    values: dict[str, Any] = {name: held[name] for name in _FIELDS}
    for name in _TIMES:
        values[name] = _moment(held[name])
    values["scopes"] = tuple(held["scopes"].split())
    values["generation"] = int(held["generation"])
    values["parent_hash"] = held["parent_hash"] or None
    return Session(**values)


def _moment(number: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(number))
