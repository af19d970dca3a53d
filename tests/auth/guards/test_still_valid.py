"""Hosts that tell, with ``still_valid``, whether a subject still has access, and which scopes it has."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from projkit import Principal, ProjKit
from projkit.auth import host_validity, wiring
from projkit.auth.host_validity import HostValidity, StillValid
from projkit.auth.middleware import AuthMiddleware
from tests.auth.guards.client import Answer, Headers, bearer, cookie, http
from tests.auth.guards.guarded import JSON, RULES, Host, counted, legacy_token, make_settings, token
from tests.auth.guards.test_host_users import log_in
from tests.auth.users import refreshes

pytestmark = pytest.mark.anyio

SESSION = "/api/v1/auth/session"
BOTH = frozenset({"projects:read", "projects:write"})


class Directory:
    """A host's users: the answer of each, and the subjects that were asked about."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, ...]] = []

    def plain(self, *subject: str) -> Any:
        """Answer, or raise the answer."""
        self.asked.append(subject)
        answer = self.answers.get(subject[0], True)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def coroutine(self, *subject: str) -> Any:
        """Answer as a coroutine function."""
        return self.plain(*subject)


def authenticate(username: str, password: str) -> Principal:
    """Accept every user of the host."""
    return Principal(username, BOTH, tenant_id="acme" if password == "tenant" else "")


@asynccontextmanager
async def hosted(url: str, still_valid: StillValid, **changes: Any) -> AsyncIterator[ProjKit]:
    """A kit with a host's users."""
    settings = make_settings(url).model_copy(update=changes)
    kit = ProjKit(settings, authenticate=authenticate, still_valid=still_valid)
    async with kit.lifespan():
        yield kit


async def refresh(kit: ProjKit, issued: dict[str, Any]) -> Answer:
    """Refresh the tokens of a login."""
    body = json.dumps({"refresh_token": issued["refresh_token"]}).encode()
    return await http(kit, "/api/v1/auth/refresh", method="POST", headers=JSON, body=body)


async def who(kit: ProjKit, token_: str) -> Answer:
    """Return the response of ``GET /auth/session``."""
    return await http(kit, SESSION, headers=bearer(token_))


@pytest.mark.parametrize("revoked", [None, False])
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_refresh_of_a_removed_user_ends_the_session(
    any_database_url: str, kind: str, revoked: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """When the host says no, the refresh is 401, and the session ends with its access token, logged and counted."""
    caplog.set_level(logging.INFO, "projkit.auth")
    users = Directory()
    async with hosted(any_database_url, getattr(users, kind)) as kit:
        issued = (await log_in(kit, "bob", "x")).json()
        assert users.asked == []
        issued = (await refresh(kit, issued)).json()
        assert (users.asked, (await who(kit, issued["access_token"])).status) == ([("bob",)], 200)
        users.answers["bob"] = revoked
        assert (await refresh(kit, issued)).json()["code"] == "invalid_refresh_token"
        assert (await who(kit, issued["access_token"])).status == 401
        assert (await kit.sessions.list("bob")).items == []
        users.answers["bob"] = True
        assert (await refresh(kit, issued)).status == 401
        assert refreshes(kit) == {"rotated": 1, "revoked": 1, "refused": 1}
    assert [each.getMessage() for each in caplog.records if each.name == "projkit.auth"] == [
        "still_valid revoked the access of the subject 'bob'",
        "a session of the subject 'bob' was ended at its refresh",
    ]


@pytest.mark.parametrize(
    ("answer", "scopes"),
    [
        (True, ["projects:read", "projects:write"]), ({"projects:read"}, ["projects:read"]),
        (["monitoring:read", "projects:read"], ["monitoring:read", "projects:read"]),
        ("projects:read metrics:read", ["metrics:read", "projects:read"]), ((), []), ("", []),
    ],
)  # fmt: skip
async def test_scopes_follow_the_host_at_each_refresh(
    sqlite_url: str, answer: Any, scopes: list[str]
) -> None:
    """The host's scopes replace the session's in the new token, narrower or wider, also for a retry."""
    users = Directory(bob=answer)
    async with hosted(sqlite_url, users.plain) as kit:
        issued = (await log_in(kit, "bob", "x")).json()
        for answered in (await refresh(kit, issued), await refresh(kit, issued)):
            assert (await who(kit, answered.json()["access_token"])).json()["scopes"] == scopes
        users.answers["bob"] = True
        restored = (await refresh(kit, answered.json())).json()
        assert (await who(kit, restored["access_token"])).json()["scopes"] == sorted(BOTH)


LEGACY: dict[str, Callable[[str], Headers]] = {
    "bearer": bearer,
    "cookie": lambda text: cookie("access_token", text),
}


@pytest.mark.parametrize("transport", LEGACY)
async def test_legacy_tokens_of_removed_users(sqlite_url: str, host: Host, transport: str) -> None:
    """A legacy token is rejected once the host says no, and accepted again when the host does."""
    users = Directory(alice=False)
    async with hosted(sqlite_url, users.plain, still_valid_cache_seconds=0) as kit:
        app = AuthMiddleware(host, kit, rules=RULES)
        headers: Headers = LEGACY[transport](legacy_token())
        for target, path in ((kit, SESSION), (app, "/read")):
            rejected = await http(target, path, headers=headers)
            assert (rejected.status, rejected.json()["code"]) == (401, "invalid_token")
        name = "bearer" if transport == "bearer" else "access_token"
        assert counted(kit, name, "legacy", "refused") == 2
        users.answers["alice"] = True
        assert (await http(kit, SESSION, headers=headers)).json()["subject"] == "alice"


@pytest.mark.parametrize(
    ("named", "answer", "scopes"),
    [
        (None, {"projects:read"}, ["projects:read"]), (None, {"admin", "metrics:read"}, []),
        (None, ["projects:write", "admin"], ["projects:write"]), ("projects:read", BOTH, ["projects:read"]),
    ],
)  # fmt: skip
async def test_the_host_narrows_legacy_tokens(
    sqlite_url: str, named: str | None, answer: Any, scopes: list[str]
) -> None:
    """The host's scopes narrow a legacy token, which could be forged, but never add to it."""
    async with hosted(sqlite_url, Directory(alice=answer).plain) as kit:
        claims = {} if named is None else {"scope": named}
        assert (await who(kit, legacy_token(**claims))).json()["scopes"] == scopes


async def test_other_credentials_are_not_asked_about(sqlite_url: str) -> None:
    """Access tokens of a session and of projkit token are not asked about: sessions are, when they are refreshed."""
    users = Directory(alice=False, bob=False)
    async with hosted(sqlite_url, users.plain) as kit:
        issued = (await log_in(kit, "bob", "x")).json()
        assert (await who(kit, issued["access_token"])).status == 200
        assert (await who(kit, token(kit))).status == 200
    assert users.asked == []


async def test_answers_about_legacy_tokens_are_cached(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the stated time the host is asked once per subject, for a yes and a no; a refresh asks anew."""
    now = [1000.0]
    users = Directory(bob=False)
    monkeypatch.setattr(wiring, "HostValidity", partial(HostValidity, monotonic=lambda: now[0]))
    async with hosted(sqlite_url, users.plain) as kit:
        for subject, status in (("alice", 200), ("bob", 401)):
            for _ in range(3):
                assert (await who(kit, legacy_token(sub=subject))).status == status
        assert users.asked == [("alice",), ("bob",)]
        now[0] += 29.9
        users.answers = {"alice": False, "bob": True}
        assert (await who(kit, legacy_token())).status == 200
        now[0] += 0.2
        assert (await who(kit, legacy_token())).status == 401
        assert (await who(kit, legacy_token(sub="bob"))).status == 200
        issued = (await log_in(kit, "bob", "x")).json()
        users.answers["bob"] = None
        assert (await refresh(kit, issued)).status == 401
        assert (await who(kit, legacy_token(sub="bob"))).status == 401


async def test_concurrent_requests_share_a_call(sqlite_url: str) -> None:
    """Concurrent requests of a subject wait for one call, which a cancelled request does not take from the others."""
    entered, release = asyncio.Event(), asyncio.Event()
    asked = []

    async def slow(subject: str) -> bool:
        asked.append(subject)
        entered.set()
        await release.wait()
        return True

    async with hosted(sqlite_url, slow) as kit, asyncio.timeout(30):
        requests = [asyncio.create_task(who(kit, legacy_token())) for _ in range(5)]
        await entered.wait()
        requests[0].cancel()
        await asyncio.gather(requests[0], return_exceptions=True)
        release.set()
        assert [(await each).status for each in requests[1:]] == [200] * 4
    assert asked == ["alice"]


@pytest.mark.parametrize(
    "wrong", [ZeroDivisionError("the inside"), 1, Principal("alice"), [1], {"a": 1, 2: 3}]
)
async def test_no_answer_is_503(sqlite_url: str, wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    """If the host's function raises or returns anything else, requests get 503 and no session ends."""
    users = Directory(alice=wrong, bob=wrong)
    async with hosted(sqlite_url, users.plain) as kit:
        issued = (await log_in(kit, "bob", "x")).json()
        for answer in (
            await refresh(kit, issued), await who(kit, legacy_token()), await refresh(kit, issued)
        ):  # fmt: skip
            assert (answer.status, answer.json()["code"]) == (503, "service_unavailable")
            assert answer.header("retry-after") == "1"
            assert b"inside" not in answer.body
        errors = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert [each.getMessage() for each in errors] == ["still_valid failed; requests get 503"]
        assert refreshes(kit) == {"unavailable": 2}
        users.answers = {}
        assert (await who(kit, legacy_token())).status == 200
        assert (await refresh(kit, issued)).status == 200


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_function_that_hangs_is_503(
    sqlite_url: str, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that does not return in time is no answer either."""
    monkeypatch.setattr(host_validity, "TIMEOUT_SECONDS", 0.05)
    release = threading.Event()

    def plain(_: str) -> bool:
        return release.wait(30)

    async def coroutine(_: str) -> bool:
        await asyncio.Event().wait()
        return True

    async with hosted(sqlite_url, plain if kind == "plain" else coroutine) as kit:
        assert (await who(kit, legacy_token())).status == 503
        release.set()
    assert "still_valid did not respond within 0.05 seconds" in caplog.text


async def test_the_tenant_is_passed_too(sqlite_url: str) -> None:
    """With TENANT_CLAIM the function also gets the tenant, in which alone the subject has a meaning."""
    users = Directory()
    async with hosted(sqlite_url, users.plain, tenant_claim="org") as kit:
        issued = (await log_in(kit, "bob", "tenant", tenant="acme")).json()
        assert (await refresh(kit, issued)).status == 200
        assert (await who(kit, legacy_token(org="globex"))).status == 200
    assert users.asked == [("bob", "acme"), ("alice", "globex")]


async def test_a_shutdown_during_a_call(sqlite_url: str) -> None:
    """A request that waits for the host while the kit stops gets 503."""
    entered = asyncio.Event()

    async def hanging(_: str) -> bool:
        entered.set()
        await asyncio.Event().wait()
        return True

    async with hosted(sqlite_url, hanging) as kit, asyncio.timeout(30):
        request = asyncio.create_task(who(kit, legacy_token()))
        await entered.wait()
        await kit.shutdown()
        assert (await request).status == 503
