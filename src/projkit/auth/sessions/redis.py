"""Sessions in Redis (6.2 or newer): one hash per subject, which holds all sessions of the subject.

A separate index of a subject's sessions could be evicted without them, and "log out everywhere" would then miss some.
With one hash, the sessions of a subject are found, ended, evicted and expired together. The hash also lies in one
slot of a Cluster, and each operation is one command or one script, so it is atomic.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import orjson

from projkit.auth.sessions.port import (
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

# All values are text: cjson would write a time in microseconds with fourteen digits.
# The key expires with the session that ends last. Each new session checks up to 20 others and deletes expired ones, so
# they are removed without a scan over thousands.
_ADD: Final = """
local seen = redis.call('HRANDFIELD', KEYS[1], 20, 'WITHVALUES')
for i = 1, #seen, 2 do
    local readable, held = pcall(cjson.decode, seen[i + 1])
    local ends = readable and type(held) == 'table' and tonumber(held.idle_expires_at) or 0
    if ends <= tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], seen[i]) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
_CHANGE: Final = """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then return 0 end
local held, now = cjson.decode(raw), tonumber(ARGV[3])
if tonumber(held.idle_expires_at) <= now or tonumber(held.expires_at) <= now then return 0 end
if ARGV[2] ~= '' and held.refresh_hash ~= ARGV[2] then return 0 end
for i = 5, #ARGV, 2 do held[ARGV[i]] = ARGV[i + 1] end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(held))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
_END_ALL_BUT: Final = """
local ended = 0
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
    if id ~= ARGV[1] then ended = ended + redis.call('HDEL', KEYS[1], id) end
end
return ended
"""
_ANY: Final = ""


class RedisSessions:
    """A :class:`~projkit.auth.sessions.port.SessionStore` over Redis: single, Sentinel or Cluster."""

    is_durable: Final = False  # replicas lag behind, and even with AOF the last second may be lost

    def __init__(self, client: RedisClient, *, prefix: str, observer: Observer = NULL_OBSERVER) -> None:
        self._redis = RedisCommands(client, SessionStoreUnavailableError, observer)
        self._prefix = prefix

    async def create(self, session: Session) -> None:
        now, ends = session.created_at, min(session.idle_expires_at, session.expires_at)
        await self._redis.run(
            "EVAL",
            _ADD,
            1,
            self._name(session.key.subject_hash),
            session.id_hash,
            _written(session),
            _number(now),
            _left(now, ends),
        )

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
        return bool(await self._redis.run("HDEL", self._name(key.subject_hash), key.id_hash))

    async def revoke_all(self, tenant_id: str, subject: str, *, keep: str | None = None) -> int:
        name = self._name(subject_hash(tenant_id, subject))
        return int(await self._redis.run("EVAL", _END_ALL_BUT, 1, name, keep or ""))

    async def list(self, tenant_id: str, subject: str, now: datetime) -> Sequence[Session]:
        values = await self._redis.run("HVALS", self._name(subject_hash(tenant_id, subject)))
        sessions = [session for each in values if (session := _read(each, _session)) is not None]
        live = [session for session in sessions if session.activity.is_live(now)]
        return sorted(live, key=lambda each: each.created_at, reverse=True)

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
        done = await self._redis.run(
            "EVAL",
            _CHANGE,
            1,
            self._name(key.subject_hash),
            key.id_hash,
            expected_hash,
            _number(now),
            _left(now, ends),
            *pairs,
        )
        return bool(done)

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
