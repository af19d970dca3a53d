"""Refresh tokens: each is exchanged once, a retry gets the same successor, and a replay ends everything."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projkit import ProjKit
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, cookie, refuses
from tests.auth.conftest import OpenKit
from tests.auth.users import AUTH, SAME_ORIGIN, Browser, ShiftedClock, add_user, auth_services, log_in

pytestmark = pytest.mark.anyio


async def refresh(kit: ProjKit, token: Any) -> Answer:
    """Return the response to a refresh by body."""
    return await ask(kit, "POST", f"{AUTH}/refresh", json={"refresh_token": token})


async def is_live(kit: ProjKit, access_token: str) -> bool:
    """Return whether an access token is accepted."""
    answer = await ask(kit, "GET", f"{AUTH}/session", [bearer(access_token)])
    assert answer.status in {200, 401}
    return answer.status == 200


async def test_rotation(open_kit: OpenKit) -> None:
    """Each refresh gives another refresh token and another access token of the same session, in body and cookies."""
    async with open_kit() as kit:
        await add_user(kit)
        body = (await log_in(kit)).json()
        seen = {body["refresh_token"]}
        for _ in range(3):
            answer = await refresh(kit, body["refresh_token"])
            assert answer.status == 200
            after = answer.json()
            assert after["session_id"] == body["session_id"]
            assert after["refresh_token"] not in seen
            assert after["access_token"] != body["access_token"]
            assert answer.cookies["refresh_token"].value == after["refresh_token"]
            assert answer.cookies["auth_token"].value == after["access_token"]
            assert answer.header("cache-control") == "private, no-store"
            assert await is_live(kit, body["access_token"])
            assert await is_live(kit, after["access_token"])
            seen.add(after["refresh_token"])
            body = after


async def test_a_retry(open_kit: OpenKit, shifted_clock: ShiftedClock) -> None:
    """A client that lost the response gets the same successor for ten seconds, however often it retries."""
    async with open_kit() as kit:
        await add_user(kit)
        parent = (await log_in(kit)).json()["refresh_token"]
        first = (await refresh(kit, parent)).json()
        for _ in range(3):
            shifted_clock.advance(seconds=3)
            again = await refresh(kit, parent)
            assert again.status == 200
            assert again.json()["refresh_token"] == first["refresh_token"]
            assert await is_live(kit, again.json()["access_token"])
        assert (await refresh(kit, first["refresh_token"])).status == 200


async def test_a_late_retry_is_a_replay(open_kit: OpenKit, shifted_clock: ShiftedClock) -> None:
    """After ten seconds the parent is a replay: family, session and access tokens end, the thief's and the victim's."""
    async with open_kit() as kit:
        await add_user(kit)
        login = (await log_in(kit)).json()
        successor = (await refresh(kit, login["refresh_token"])).json()
        shifted_clock.advance(seconds=11)
        refuses(await refresh(kit, login["refresh_token"]), "invalid_refresh_token")
        refuses(await refresh(kit, successor["refresh_token"]), "invalid_refresh_token")
        assert not await is_live(kit, login["access_token"])
        assert not await is_live(kit, successor["access_token"])


async def test_an_older_token_is_a_replay(open_kit: OpenKit) -> None:
    """A grandparent ends the session at once, also within ten seconds; other sessions of the user live on."""
    async with open_kit() as kit:
        await add_user(kit)
        other = (await log_in(kit)).json()
        tokens = [(await log_in(kit)).json()]
        for _ in range(3):
            tokens.append((await refresh(kit, tokens[-1]["refresh_token"])).json())
        refuses(await refresh(kit, tokens[1]["refresh_token"]), "invalid_refresh_token")
        for each in tokens:
            assert not await is_live(kit, each["access_token"])
            refuses(await refresh(kit, each["refresh_token"]), "invalid_refresh_token")
        assert await is_live(kit, other["access_token"])
        assert (await refresh(kit, other["refresh_token"])).status == 200


async def test_a_race(open_kit: OpenKit) -> None:
    """Concurrent requests with the same token all get one successor, and no session ends."""
    async with open_kit() as kit:
        await add_user(kit)
        login = (await log_in(kit)).json()
        answers = await asyncio.gather(*(refresh(kit, login["refresh_token"]) for _ in range(12)))
        assert {answer.status for answer in answers} == {200}
        assert len({answer.json()["refresh_token"] for answer in answers}) == 1
        assert (await refresh(kit, answers[0].json()["refresh_token"])).status == 200


async def test_a_disabled_user(open_kit: OpenKit) -> None:
    """A disabled user's refresh fails and ends the session, also after the user is enabled again."""
    async with open_kit() as kit:
        await add_user(kit)
        body = (await log_in(kit)).json()
        await auth_services(kit).users.set_disabled("alice", disabled=True)
        refuses(await refresh(kit, body["refresh_token"]), "invalid_refresh_token")
        assert not await is_live(kit, body["access_token"])
        await auth_services(kit).users.set_disabled("alice", disabled=False)
        refuses(await refresh(kit, body["refresh_token"]), "invalid_refresh_token")


async def test_an_absolute_end(open_kit: OpenKit, shifted_clock: ShiftedClock) -> None:
    """Refreshing prolongs a session up to its absolute end; tokens issued shortly before it end with it."""
    async with open_kit(session_idle_seconds=1000, session_max_seconds=2000) as kit:
        await add_user(kit)
        body = (await log_in(kit)).json()
        assert (body["expires_in"], body["refresh_expires_in"]) == (900, 1000)
        lifetimes = []
        for _ in range(2):
            shifted_clock.advance(seconds=900)
            body = (await refresh(kit, body["refresh_token"])).json()
            lifetimes.append((body["expires_in"], body["refresh_expires_in"]))
        assert lifetimes[0] in {(900, 1000), (900, 999)}
        assert all(150 < lifetime <= 200 for lifetime in lifetimes[1])
        shifted_clock.advance(seconds=201)
        refuses(await refresh(kit, body["refresh_token"]), "invalid_refresh_token")
        assert not await is_live(kit, body["access_token"])


async def test_successors_under_another_key(open_kit: OpenKit, tmp_path: Path) -> None:
    """A token outlives the key under which it was made, and so does the promise of the same successor."""
    path = forge.write_keys(tmp_path / "keys.json", forge.private("HS256"))
    async with open_kit(secret=None, keys_file=path) as kit:
        await add_user(kit)
        parent = (await log_in(kit)).json()["refresh_token"]
        successor = (await refresh(kit, parent)).json()["refresh_token"]
        before = auth_services(kit).keys.current
        forge.write_keys(path, forge.private("HS256"), forge.private("EdDSA"))
        while auth_services(kit).keys.current is before:
            await asyncio.sleep(0.02)
        assert (await refresh(kit, parent)).json()["refresh_token"] == successor
        again = await refresh(kit, successor)
        assert again.status == 200
        assert await is_live(kit, again.json()["access_token"])


async def test_where_the_token_comes(open_kit: OpenKit) -> None:
    """The body takes precedence over the cookie; a repeated cookie is ambiguous; no other source is read."""
    async with open_kit() as kit:
        for name in ("alice", "bob"):
            await add_user(kit, name)
        hers, his = (await log_in(kit, "alice")).json(), (await log_in(kit, "bob")).json()
        both = [cookie(refresh_token=his["refresh_token"], csrf_token=his["csrf_token"]), SAME_ORIGIN]
        answer = await ask(
            kit, "POST", f"{AUTH}/refresh", both, json={"refresh_token": hers["refresh_token"]}
        )
        assert answer.json()["session_id"] == hers["session_id"]
        signed = ("x-csrf-token", his["csrf_token"])
        twice = [*both, signed, cookie(refresh_token="x")]
        refuses(await ask(kit, "POST", f"{AUTH}/refresh", twice), "ambiguous_credentials")
        for body in (None, {}, {"refresh_token": None}):
            refuses(await ask(kit, "POST", f"{AUTH}/refresh", json=body), "missing_credentials")
            empty = [cookie(refresh_token="", csrf_token="x"), SAME_ORIGIN]
            refuses(await ask(kit, "POST", f"{AUTH}/refresh", empty, json=body), "missing_credentials")
        answer = await ask(kit, "POST", f"{AUTH}/refresh", query=f"refresh_token={his['refresh_token']}")
        refuses(answer, "missing_credentials")
        assert (await ask(kit, "POST", f"{AUTH}/refresh", [*both, signed])).json()["session_id"] == his[
            "session_id"
        ]


async def test_forged_tokens(open_kit: OpenKit) -> None:
    """A token made without the secret is rejected, and only a token of that very session may end it."""
    async with open_kit() as kit:
        await add_user(kit)
        body, other = (await log_in(kit)).json(), (await log_in(kit)).json()
        good, foreign = (base64.urlsafe_b64decode(each["refresh_token"] + "==") for each in (body, other))
        forged = [
            b"", b"\0" * 81, good[:80], b"\2" + good[1:], good + b"\0", good + b"acme", good + b"\xff",
            good + b"\0\0acme",
            b"\1" + b"\0" * 80 + b"\0", foreign[:33] + good[33:] + b"x",
            foreign[:1] + b"\0" * 32 + good[33:],
            b"\1" + b"\xff" * 1000,
        ]  # fmt: skip
        for raw in forged:
            refuses(await refresh(kit, forge.b64(raw) or "x"), "invalid_refresh_token")
        for text in (
            "x",
            "é",
            " ",
            "a.b.c",
            body["access_token"],
            body["refresh_token"] + "é",
            "=" * 40,
            "A" * 2048,
        ):
            refuses(await refresh(kit, text), "invalid_refresh_token")
        wrong: tuple[Any, ...] = (7, True, [], {}, "", "x" * 2049)
        for each in wrong:
            assert (await refresh(kit, each)).status == 422
        assert await is_live(kit, body["access_token"])
        assert await is_live(kit, other["access_token"])
        # The family named rightly with a wrong secret: one of those who hold it must be a thief.
        refuses(await refresh(kit, forge.b64(good[:33] + b"\0" * 32 + good[65:])), "invalid_refresh_token")
        assert not await is_live(kit, body["access_token"])
        assert await is_live(kit, other["access_token"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(min_size=1, max_size=120) | st.binary(min_size=80, max_size=120).map(lambda raw: b"\1" + raw)
)
async def test_any_bytes(shared_kit: ProjKit, raw: bytes) -> None:
    """Arbitrary bytes get the same rejection in the body and in the cookie."""
    refuses(await refresh(shared_kit, forge.b64(raw)), "invalid_refresh_token")
    sent = [cookie(refresh_token=forge.b64(raw), csrf_token="x"), ("x-csrf-token", "x"), SAME_ORIGIN]
    answer = await ask(shared_kit, "POST", f"{AUTH}/refresh", sent)
    assert answer.code in {"invalid_refresh_token", "csrf_failed"}
    assert (await ask(shared_kit, "POST", f"{AUTH}/logout", sent)).code in {
        "invalid_refresh_token",
        "csrf_failed",
    }


async def test_nothing_in_clear(open_kit: OpenKit) -> None:
    """Neither session ids nor refresh tokens are stored in clear text."""
    async with open_kit() as kit:
        await add_user(kit)
        browser = Browser(kit)
        body = await browser.log_in(transport="body")
        body |= (await browser.send("POST", f"{AUTH}/refresh")).json()
        principal = auth_services(kit).verifier.verify(body["access_token"])
        [listed] = (await auth_services(kit).sessions.list(principal, limit=2)).items
        stored = repr(listed.session)
        for name in ("session_id", "refresh_token", "access_token", "csrf_token"):
            assert body[name] not in stored
        for name in ("id_hash", "refresh_hash", "parent_hash", "seed"):
            value = getattr(listed.session, name)
            refuses(await refresh(kit, value), "invalid_refresh_token")
            assert not await is_live(kit, auth_services(kit).issuer.issue("alice", (), session_id=value))
