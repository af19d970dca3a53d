"""The user's own sessions and password: listing, ending, and the effects of a new password."""

import logging
from typing import Any, Final
from uuid import uuid4

import pytest
import sqlalchemy as sa

from projkit import ProjKit
from projkit.auth.session_service import Client
from projkit.auth.users import Users
from projkit.db.statement import Statement
from projkit.db.tables import tables_of
from projkit.testing.internals import Internals
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, refuses
from tests.auth.conftest import OpenKit
from tests.auth.users import AUTH, PASSWORD, SAME_ORIGIN, Browser, add_user, auth_services, log_in
from tests.conftest import kit_in_mode

pytestmark = pytest.mark.anyio

NEW: Final = "another battery staple"


async def whoami(kit: ProjKit, token: str) -> Answer:
    """Return the response to a request with the token."""
    return await ask(kit, "GET", f"{AUTH}/session", [bearer(token)])


async def change(kit: ProjKit, token: str, old: str = PASSWORD, new: str = NEW) -> Answer:
    """Return the response to a change of password."""
    content = {"old_password": old, "new_password": new}
    return await ask(kit, "POST", f"{AUTH}/password", [bearer(token)], json=content)


async def test_the_list(open_kit: OpenKit) -> None:
    """Lists contain the live sessions, newest first, with their clients, and mark the current one."""
    async with open_kit() as kit:
        await add_user(kit)
        bodies = []
        for number, transport in enumerate(("body", "cookie", "body")):
            content = {"username": "alice", "password": PASSWORD, "transport": transport}
            sent = [("user-agent", f"browser {number}")]
            answer = await ask(
                kit, "POST", f"{AUTH}/login", sent, json=content, address=f"203.0.113.{number}"
            )
            bodies.append(answer.json())
        listed = await ask(kit, "GET", f"{AUTH}/sessions", [bearer(bodies[2]["access_token"])])
        assert listed.header("cache-control") == "private, no-store"
        items = listed.json()["items"]
        assert [item["id"] for item in items] == [body["session_id"] for body in reversed(bodies)]
        assert [item["current"] for item in items] == [True, False, False]
        assert [item["transport"] for item in items] == ["body", "cookie", "body"]
        assert [item["user_agent"] for item in items] == ["browser 2", "browser 1", "browser 0"]
        assert [item["address"] for item in items] == ["203.0.113.2", "203.0.113.1", "203.0.113.0"]
        for item in items:
            assert set(item) == {
                "id", "current", "transport", "user_agent", "address", "created_at", "used_at", "expires_at",
            }  # fmt: skip
            assert item["created_at"].endswith("Z")
            assert item["created_at"] <= item["used_at"] < item["expires_at"]
        assert listed.json()["next_cursor"] is None


async def test_pages(open_kit: OpenKit) -> None:
    """The list has pages of up to 100; a cursor is valid for its user only, and for any limit."""
    async with open_kit() as kit:
        await add_user(kit)
        await add_user(kit, "bob")
        bodies = [(await log_in(kit)).json() for _ in range(21)]
        his = (await log_in(kit, "bob")).json()["access_token"]
        token = bodies[0]["access_token"]

        async def page(query: str, token: str = token) -> Answer:
            return await ask(kit, "GET", f"{AUTH}/sessions", [bearer(token)], query=query)

        first = (await page("")).json()
        cursor = first["next_cursor"]
        second = (await page(f"limit=100&cursor={cursor}")).json()
        listed = [each["id"] for each in (*first["items"], *second["items"])]
        assert listed == [body["session_id"] for body in reversed(bodies)]
        assert (len(first["items"]), second["next_cursor"]) == (20, None)
        assert second["items"][0]["current"]
        for answer in (await page(f"cursor={cursor}", his), await page(f"cursor={cursor[:-1]}")):
            assert (answer.status, answer.code) == (422, "invalid_cursor")
        for query in ("limit=0", "limit=101", "limit=x", "limit=1&limit=2", "page=2"):
            assert (await page(query)).code == "validation_error"


@pytest.mark.parametrize("store", ["database", "redis"])
async def test_a_login_ends_the_oldest_in_excess(
    any_database_url: str, store: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """With MAX_SESSIONS_PER_SUBJECT sessions, a login ends the oldest one, and no other user's; a failed one none."""
    caplog.set_level(logging.INFO, "projkit.auth")
    changes: dict[str, Any] = {"max_sessions_per_subject": 2}
    if store == "redis":
        servers = request.getfixturevalue("redis_alone")
        changes |= {"redis_url": servers.url, "redis_prefix": f"{uuid4().hex}:", "session_cache_seconds": 0}
    async with kit_in_mode("fast", any_database_url, options={}, **changes) as kit:
        for name in ("alice", "bob"):
            await add_user(kit, name)
        his = (await log_in(kit, "bob")).json()
        hers = [(await log_in(kit)).json() for _ in range(3)]
        assert (await log_in(kit, password="a wrong password")).status == 401
        refuses(await whoami(kit, hers[0]["access_token"]))
        answer = await ask(kit, "POST", f"{AUTH}/refresh", json={"refresh_token": hers[0]["refresh_token"]})
        refuses(answer, "invalid_refresh_token")
        for body in (*hers[1:], his):
            assert (await whoami(kit, body["access_token"])).status == 200
        assert "1 sessions of the subject 'alice' were ended by a login" in caplog.text
        # It is recorded, so that a Redis that loses its last writes does not restore it.
        once = Statement(sa.select(sa.func.count()).select_from(tables_of(kit.settings).one_time_values))
        row = await Internals(kit).running.database.fetch_one(once, {})
        assert row is not None
        assert row[0] == (store == "redis")


async def test_unlimited(open_kit: OpenKit) -> None:
    """With MAX_SESSIONS_PER_SUBJECT=0, no login ends a session."""
    async with open_kit(max_sessions_per_subject=0) as kit:
        await add_user(kit)
        bodies = [(await log_in(kit)).json() for _ in range(3)]
        for body in bodies:
            assert (await whoami(kit, body["access_token"])).status == 200


async def test_ending_one(open_kit: OpenKit) -> None:
    """A session is ended by its name, once, by its owner alone; the others live on."""
    async with open_kit() as kit:
        for name in ("alice", "bob"):
            await add_user(kit, name)
        first, second = (await log_in(kit)).json(), (await log_in(kit)).json()
        his = (await log_in(kit, "bob")).json()
        path = f"{AUTH}/sessions/{first['session_id']}"
        for token, status in (
            (his["access_token"], 404), (second["access_token"], 204), (second["access_token"], 404),
            (his["access_token"], 404),
        ):  # fmt: skip
            assert (await ask(kit, "DELETE", path, [bearer(token)])).status == status
        refuses(await whoami(kit, first["access_token"]))
        for body in (second, his):
            assert (await whoami(kit, body["access_token"])).status == 200
        for name in (
            "x",
            "x" * 42,
            "x" * 65,
            "A" * 43,
            f"{second['session_id']}%00",
            "..",
            f"{second['session_id']}/",
        ):
            answer = await ask(kit, "DELETE", f"{AUTH}/sessions/{name}", [bearer(second["access_token"])])
            assert (answer.status, answer.code) == (404, "not_found")
        own = f"{AUTH}/sessions/{second['session_id']}"
        assert (await ask(kit, "DELETE", own, [bearer(second["access_token"])])).status == 204
        refuses(await whoami(kit, second["access_token"]))


async def test_logging_out(open_kit: OpenKit) -> None:
    """Logging out ends this session and clears its cookies, but the device token; again is a 401."""
    async with open_kit() as kit:
        await add_user(kit)
        browser, other = Browser(kit), Browser(kit)
        await browser.log_in()
        await other.log_in()
        token = browser.jar["auth_token"]
        answer = await browser.send("POST", f"{AUTH}/logout")
        assert (answer.status, answer.body) == (204, b"")
        for name in ("auth_token", "refresh_token", "csrf_token", "access_token"):
            cleared = answer.cookies[name]
            assert (cleared.value, cleared.attributes["max-age"]) == ("", "0")
            assert cleared.attributes["expires"].startswith("Thu, 01 Jan 1970")
        assert answer.cookies["refresh_token"].attributes["path"] == AUTH
        assert browser.jar.keys() == {"known_device"}
        refuses(await whoami(kit, token))
        refuses(await ask(kit, "POST", f"{AUTH}/logout", [bearer(token)]))
        refuses(await browser.send("POST", f"{AUTH}/logout"), "missing_credentials")
        assert (await other.whoami()).status == 200


async def test_a_bad_cookie_is_cleared(open_kit: OpenKit) -> None:
    """A logout with an invalid cookie is 401 and clears the cookie."""
    async with open_kit() as kit:
        browser = Browser(kit)
        browser.jar["auth_token"] = "x"
        answer = await browser.send("POST", f"{AUTH}/logout")
        refuses(answer)
        assert "auth_token" not in browser.jar


async def test_a_bad_cookie_beside_a_good_refresh_cookie(open_kit: OpenKit) -> None:
    """If the access cookie is no longer valid, logging out ends the session that the refresh cookie names."""
    async with open_kit() as kit:
        await add_user(kit)
        browser = Browser(kit)
        await browser.log_in()
        token, refresh = browser.jar["auth_token"], browser.jar["refresh_token"]
        browser.jar["auth_token"] = "x"
        other_site = [("sec-fetch-site", "cross-site")]
        for headers in (other_site, [*other_site, bearer("x")], [SAME_ORIGIN]):
            answer = await browser.send("POST", f"{AUTH}/logout", headers)
            assert answer.status in {401, 403}
            assert not answer.cookies
        assert (await whoami(kit, token)).status == 200
        assert (await browser.send("POST", f"{AUTH}/logout")).status == 204
        refuses(await whoami(kit, token))
        again = await ask(kit, "POST", f"{AUTH}/refresh", json={"refresh_token": refresh})
        refuses(again, "invalid_refresh_token")


async def test_logging_out_everywhere(open_kit: OpenKit) -> None:
    """All sessions of the user end, and tokens without a session; those of other users do not."""
    async with open_kit() as kit:
        for name in ("alice", "bob"):
            await add_user(kit, name)
        hers = [(await log_in(kit)).json()["access_token"] for _ in range(3)]
        hers.append(auth_services(kit).issuer.issue("alice", ()))
        his = [(await log_in(kit, "bob")).json()["access_token"], auth_services(kit).issuer.issue("bob", ())]
        for token in (*hers, *his):
            assert (await whoami(kit, token)).status == 200
        answer = await ask(kit, "POST", f"{AUTH}/logout-all", [bearer(hers[0])])
        assert answer.status == 204
        assert answer.cookies["auth_token"].value == ""
        for token in hers:
            refuses(await whoami(kit, token))
        for token in his:
            assert (await whoami(kit, token)).status == 200
        assert (await log_in(kit)).status == 200


async def test_a_new_password(open_kit: OpenKit) -> None:
    """The new password is the one from then on; the session that set it lives, everything else of the user ends."""
    async with open_kit() as kit:
        await add_user(kit)
        mine, others = (await log_in(kit)).json(), [(await log_in(kit)).json() for _ in range(2)]
        sessionless = auth_services(kit).issuer.issue("alice", ())
        answer = await change(kit, mine["access_token"])
        assert (answer.status, answer.body) == (204, b"")
        assert (await whoami(kit, mine["access_token"])).status == 200
        refuses(await whoami(kit, sessionless))
        for body in others:
            refuses(await whoami(kit, body["access_token"]))
            content = {"refresh_token": body["refresh_token"]}
            refuses(await ask(kit, "POST", f"{AUTH}/refresh", json=content), "invalid_refresh_token")
        refreshed = await ask(kit, "POST", f"{AUTH}/refresh", json={"refresh_token": mine["refresh_token"]})
        assert refreshed.status == 200
        refuses(await log_in(kit), "invalid_credentials")
        assert (await log_in(kit, password=NEW)).status == 200


async def test_a_login_while_the_password_changes(open_kit: OpenKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login with the old password at the moment of its change does not keep its session."""
    thief: list[str] = []
    set_password = Users.set_password

    async def overtaken(self: Users, *arguments: Any, **named: Any) -> None:
        thief.append((await log_in(kit)).json()["access_token"])
        await set_password(self, *arguments, **named)

    async with open_kit() as kit:
        await add_user(kit)
        mine = (await log_in(kit)).json()["access_token"]
        monkeypatch.setattr(Users, "set_password", overtaken)
        assert (await change(kit, mine)).status == 204
        refuses(await whoami(kit, thief[0]))
        assert (await whoami(kit, mine)).status == 200


async def test_what_is_no_new_password(open_kit: OpenKit) -> None:
    """Without the current password, or with an invalid new one, nothing changes and no session ends."""
    async with open_kit() as kit:
        await add_user(kit, "Alice Liddell", subject="u-1")
        mine, other = (await log_in(kit, "Alice Liddell")).json(), (await log_in(kit, "Alice Liddell")).json()
        for old in ("wrong", PASSWORD.upper(), f"{PASSWORD} "):
            refuses(await change(kit, mine["access_token"], old), "invalid_credentials")
        for new in ("short12", "x" * 257, "alice liddell", "ALICE LIDDELL", "", "a\0bcdefgh"):
            answer = await change(kit, mine["access_token"], PASSWORD, new)
            assert answer.status == 422, new
            assert answer.json()["errors"][0]["pointer"] == "/new_password"
        assert (await whoami(kit, other["access_token"])).status == 200
        assert (await log_in(kit, "alice liddell")).status == 200


async def test_whose_password(open_kit: OpenKit) -> None:
    """A user without a password here cannot set one, and gets the same response as with a wrong one."""
    async with open_kit() as kit:
        await add_user(kit, None, None, subject="by-oidc")
        await add_user(kit)
        for subject in ("by-oidc", "nobody", "alice"):
            issued = await auth_services(kit).sessions.open(subject, (), "", "body", Client("", ""))
            refuses(await change(kit, issued.access_token, "x"), "invalid_credentials")
            assert (await whoami(kit, issued.access_token)).status == 200


async def test_guessing_the_present_password(open_kit: OpenKit) -> None:
    """A stolen session does not allow guessing the password by changing it, nor locking its owner out."""
    async with open_kit(login_limit_account="3/minute") as kit:
        await add_user(kit)
        stolen = (await log_in(kit)).json()["access_token"]
        for _ in range(3):
            refuses(await change(kit, stolen, "a guess"), "invalid_credentials")
        for old in ("a guess", PASSWORD):
            answer = await change(kit, stolen, old)
            assert (answer.status, answer.code) == (429, "rate_limited")
        assert (await log_in(kit)).status == 200


async def test_a_token_without_a_session(open_kit: OpenKit) -> None:
    """A token that names no session has none in the list, and logs out by itself."""
    async with open_kit(legacy_secret=forge.LEGACY_SECRET) as kit:
        await add_user(kit)
        await log_in(kit)
        far = forge.legacy(sub="alice", exp=253_402_300_799)
        for token in (auth_services(kit).issuer.issue("alice", ()), forge.legacy(), far):
            items = (await ask(kit, "GET", f"{AUTH}/sessions", [bearer(token)])).json()["items"]
            assert [item["current"] for item in items] == [False]
            assert (await whoami(kit, token)).json()["session_id"] is None
            assert (await ask(kit, "POST", f"{AUTH}/logout", [bearer(token)])).status == 204
            refuses(await whoami(kit, token))
