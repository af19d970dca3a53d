"""Credentials from before a login are useless after it; a token is valid for its own session only."""

import time
from typing import Final

import pytest

from projkit import ProjKit
from projkit.auth.csrf import session_binding
from projkit.auth.sessions.port import SessionKey, sha256_hex, subject_hash
from projkit.identity import Principal
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, cookie, refuses
from tests.auth.conftest import OpenKit
from tests.auth.users import (
    AUTH,
    PROJECTS,
    SAME_ORIGIN,
    Browser,
    ShiftedClock,
    add_user,
    auth_services,
    log_in,
)

pytestmark = pytest.mark.anyio

CREDENTIALS: Final = ("auth_token", "refresh_token", "csrf_token")


async def whoami(kit: ProjKit, token: str) -> Answer:
    """Return the response to a request with the token."""
    return await ask(kit, "GET", f"{AUTH}/session", [bearer(token)])


async def test_a_session_that_was_there_before(open_kit: OpenKit) -> None:
    """An attacker who planted their session in a browser learns nothing of the session its user opens."""
    async with open_kit() as kit:
        await add_user(kit, "alice")
        await add_user(kit, "mallory")
        thief, victim = Browser(kit), Browser(kit)
        planted = await thief.log_in("mallory")
        victim.jar.update(thief.jar)
        opened = await victim.log_in("alice")
        assert opened["session_id"] != planted["session_id"]
        assert opened["csrf_token"] != planted["csrf_token"]
        assert all(victim.jar[name] != thief.jar[name] for name in CREDENTIALS)
        assert (await victim.whoami()).json()["subject"] == "alice"
        assert (await thief.whoami()).json()["subject"] == "mallory"
        # The planted CSRF value, which the thief knows, is of no use against the new session.
        victim.jar["csrf_token"] = thief.jar["csrf_token"]
        assert (await victim.send("POST", PROJECTS, json={"name": "A"})).code == "csrf_failed"
        assert (await thief.send("POST", f"{AUTH}/refresh")).json()["session_id"] == planted["session_id"]
        assert (await thief.whoami()).json()["subject"] == "mallory"


async def test_values_of_ones_own_choice(open_kit: OpenKit) -> None:
    """A login does not adopt cookies that the kit has not issued."""
    async with open_kit() as kit:
        await add_user(kit, "alice")
        browser = Browser(kit)
        chosen = dict.fromkeys(CREDENTIALS, "A" * 43)
        browser.jar.update(chosen)
        opened = await browser.log_in()
        assert opened["session_id"] != "A" * 43
        assert not set(browser.jar.values()) & {"A" * 43}
        stranger = Browser(kit)
        stranger.jar.update(chosen)
        refuses(await stranger.whoami())


async def test_every_login_is_another_session(open_kit: OpenKit) -> None:
    """A second login returns another session id, tokens and CSRF token, each valid for its own session only."""
    async with open_kit() as kit:
        await add_user(kit, "alice")
        first, second = Browser(kit), Browser(kit)
        one, other = await first.log_in(), await second.log_in()
        assert one["session_id"] != other["session_id"]
        assert all(first.jar[name] != second.jar[name] for name in CREDENTIALS)
        first.jar["csrf_token"], second.jar["csrf_token"] = second.jar["csrf_token"], first.jar["csrf_token"]
        for browser in (first, second):
            assert (await browser.send("POST", PROJECTS, json={"name": "A"})).code == "csrf_failed"


async def test_a_value_from_before_the_login(open_kit: OpenKit) -> None:
    """A CSRF value that a legacy token was given does not outlive the login that replaces it."""
    async with open_kit(legacy_secret=forge.LEGACY_SECRET) as kit:
        await add_user(kit, "alice")
        browser = Browser(kit)
        browser.jar["access_token"] = forge.legacy()
        value = (await browser.send("GET", f"{AUTH}/csrf")).json()["csrf_token"]
        assert (await browser.send("POST", PROJECTS, json={"name": "A"})).status == 201
        await browser.log_in()
        assert "access_token" not in browser.jar
        assert (await browser.send("POST", PROJECTS, json={"name": "B"})).status == 201
        browser.jar["csrf_token"] = value
        assert (await browser.send("POST", PROJECTS, json={"name": "C"})).code == "csrf_failed"


async def test_a_session_of_another_user(open_kit: OpenKit) -> None:
    """A validly signed token with another subject's session id is rejected, for every combination."""
    async with open_kit() as kit:
        for name in ("alice", "bob"):
            await add_user(kit, name)
        sessions = {name: (await log_in(kit, name)).json()["session_id"] for name in ("alice", "bob")}
        issuer = auth_services(kit).issuer
        for subject in ("alice", "bob", "carol", "Alice", "alice ", ""):
            for owner, session_id in sessions.items():
                answer = await whoami(kit, issuer.issue(subject, (), session_id=session_id))
                assert answer.status == (200 if subject == owner else 401)
        for wrong in (
            sha256_hex(sessions["alice"]),
            sessions["alice"][:-1],
            sessions["alice"] + "A",
            "x",
            "é",
        ):
            refuses(await whoami(kit, issuer.issue("alice", (), session_id=wrong)))


async def test_a_session_of_another_tenant(open_kit: OpenKit) -> None:
    """The same subject in another tenant is another user with separate sessions."""
    async with open_kit(tenant_claim="org") as kit:
        for tenant in ("acme", "umbrella"):
            await add_user(kit, "alice", tenant=tenant)
        answer = await log_in(kit, tenant="acme")
        session_id = answer.json()["session_id"]
        issuer = auth_services(kit).issuer
        for tenant, status in (("acme", 200), ("umbrella", 401), ("acme ", 401), ("ACME", 401)):
            token = issuer.issue("alice", (), session_id=session_id, tenant_id=tenant)
            assert (await whoami(kit, token)).status == status


async def test_ended_sessions(open_kit: OpenKit) -> None:
    """When a session ends in any way, its unexpired tokens are rejected at once."""
    async with open_kit() as kit:
        user = await add_user(kit, "alice")
        service = auth_services(kit).sessions
        principal = Principal("alice")

        async def by_logout(token: str, session_id: str) -> None:
            assert (await ask(kit, "POST", f"{AUTH}/logout", [bearer(token)])).status == 204

        async def by_name(token: str, session_id: str) -> None:
            other = (await log_in(kit)).json()["access_token"]
            answer = await ask(kit, "DELETE", f"{AUTH}/sessions/{session_id}", [bearer(other)])
            assert answer.status == 204

        async def by_logout_everywhere(token: str, session_id: str) -> None:
            other = (await log_in(kit)).json()["access_token"]
            assert (await ask(kit, "POST", f"{AUTH}/logout-all", [bearer(other)])).status == 204

        async def by_refresh_cookie(token: str, session_id: str) -> None:
            headers = [cookie(refresh_token=refresh, csrf_token=csrf), ("x-csrf-token", csrf), SAME_ORIGIN]
            assert (await ask(kit, "POST", f"{AUTH}/logout", headers)).status == 204

        async def by_the_service(token: str, session_id: str) -> None:
            await service.end_all(user.tenant_id, user.subject)

        for end in (by_logout, by_name, by_logout_everywhere, by_refresh_cookie, by_the_service):
            body = (await log_in(kit)).json()
            token, refresh, csrf = body["access_token"], body["refresh_token"], body["csrf_token"]
            assert (await whoami(kit, token)).status == 200
            await end(token, body["session_id"])
            refuses(await whoami(kit, token))
            refuses(await ask(kit, "GET", f"{AUTH}/session", [cookie(auth_token=token)]))
            answer = await ask(kit, "POST", f"{AUTH}/refresh", json={"refresh_token": refresh})
            refuses(answer, "invalid_refresh_token")
        assert (await service.list(principal, limit=1)).items == []


@pytest.mark.parametrize(
    ("setting", "kept_by_use"), [("session_idle_seconds", True), ("session_max_seconds", False)]
)
async def test_lifetimes(
    open_kit: OpenKit, shifted_clock: ShiftedClock, setting: str, kept_by_use: bool
) -> None:
    """A session ends when it was idle too long, and at its absolute end however it was used."""
    async with open_kit(**{setting: 3600}, access_token_seconds=86_400) as kit:
        await add_user(kit, "alice")
        body = (await log_in(kit)).json()
        token = auth_services(kit).issuer.issue("alice", (), session_id=body["session_id"])
        for _ in range(3):
            shifted_clock.advance(seconds=1300)
            used = await whoami(kit, token)
            assert used.status == (
                200 if kept_by_use or shifted_clock().timestamp() < time.time() + 3600 else 401
            )
        shifted_clock.advance(seconds=3601)
        refuses(await whoami(kit, token))
        answer = await ask(kit, "POST", f"{AUTH}/refresh", json={"refresh_token": body["refresh_token"]})
        refuses(answer, "invalid_refresh_token")
        key = SessionKey("", subject_hash("", "alice"), sha256_hex(body["session_id"]))
        assert await auth_services(kit).store.get(key, shifted_clock()) is None


async def test_values_of_an_ended_session(open_kit: OpenKit) -> None:
    """The CSRF value of an ended session goes with no other one, and a new one is not opened by it."""
    async with open_kit() as kit:
        await add_user(kit, "alice")
        browser = Browser(kit)
        first = await browser.log_in()
        assert (await browser.send("POST", f"{AUTH}/logout")).status == 204
        assert not browser.jar.keys() & {*CREDENTIALS}
        await browser.log_in()
        browser.jar["csrf_token"] = first["csrf_token"]
        assert (await browser.send("POST", PROJECTS, json={"name": "A"})).code == "csrf_failed"
        browser.jar["csrf_token"] = auth_services(kit).csrf.issue(session_binding(first["session_id"]))
        assert (await browser.send("POST", PROJECTS, json={"name": "A"})).code == "csrf_failed"
