"""Each login and each refresh is counted under one outcome."""

from typing import Any

import pytest

from projkit import ProjKit
from projkit.errors import UnavailableError
from projkit.identity import Principal
from tests.auth.asgi_client import Answer, ask, cookie
from tests.auth.conftest import OpenKit
from tests.auth.users import (
    AUTH,
    SAME_ORIGIN,
    ShiftedClock,
    add_user,
    auth_services,
    log_in,
    logins,
    refreshes,
)

pytestmark = pytest.mark.anyio


async def test_logins(open_kit: OpenKit) -> None:
    """A login counts once: as succeeded, as failed whatever the reason, or as limited; a malformed body is none."""
    async with open_kit(login_limit_account="3/minute") as kit:
        await add_user(kit)
        await add_user(kit, "bob")
        await auth_services(kit).users.set_disabled("bob", disabled=True)
        assert (await log_in(kit)).status == 200
        for name, password in (("alice", "wrong password"), ("nobody", "wrong password"), ("bob", "x")):
            assert (await log_in(kit, name, password)).status == 401
        assert (await ask(kit, "POST", f"{AUTH}/login", json={"username": "alice"})).status == 422
        statuses = [(await log_in(kit, password="wrong password")).status for _ in range(4)]
        assert logins(kit) == {
            ("password", "succeeded"): 1,
            ("password", "failed"): 3 + statuses.count(401),
            ("password", "limited"): statuses.count(429),
        }
        assert statuses.count(429) > 0


async def test_logins_of_a_host(open_kit: OpenKit) -> None:
    """Logins of a host's users are counted like the kit's; an exception of the host counts as error, a silent
    store does not.
    """
    answers: list[Any] = [Principal("carol"), None, ZeroDivisionError(), UnavailableError("down")]

    def authenticate(username: str, password: str) -> Principal | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    async with open_kit(options={"authenticate": authenticate}) as kit:
        statuses = [(await log_in(kit)).status for _ in range(4)]
        assert statuses == [200, 401, 500, 503]
        outcomes = ("succeeded", "failed", "error", "unavailable")
        assert logins(kit) == {("password", outcome): 1 for outcome in outcomes}


async def refresh(kit: ProjKit, token: str) -> Answer:
    """Return the response to a refresh by body."""
    return await ask(kit, "POST", f"{AUTH}/refresh", json={"refresh_token": token})


async def test_refreshes(open_kit: OpenKit, shifted_clock: ShiftedClock) -> None:
    """A refresh counts once: rotated, replayed in time, reused too late, or refused as unknown."""
    async with open_kit() as kit:
        await add_user(kit)
        first = (await log_in(kit)).json()["refresh_token"]
        assert (await refresh(kit, first)).status == 200
        assert refreshes(kit) == {"rotated": 1}
        assert (await refresh(kit, first)).status == 200
        assert refreshes(kit) == {"rotated": 1, "replayed": 1}
        shifted_clock.advance(seconds=11)
        assert (await refresh(kit, first)).status == 401
        assert refreshes(kit) == {"rotated": 1, "replayed": 1, "reused": 1}
        for each in (first, "nonsense"):
            assert (await refresh(kit, each)).status == 401
        sent = [SAME_ORIGIN, cookie(refresh_token="nonsense")]
        assert (await ask(kit, "POST", f"{AUTH}/refresh", sent)).status == 401
        assert refreshes(kit) == {"rotated": 1, "replayed": 1, "reused": 1, "refused": 3}


async def test_refreshes_without_a_store(open_kit: OpenKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store does not respond, the refresh counts as unavailable."""
    async with open_kit() as kit:
        await add_user(kit)
        token = (await log_in(kit)).json()["refresh_token"]

        async def silent(*_: object) -> None:
            raise UnavailableError("down")

        monkeypatch.setattr(auth_services(kit).sessions, "_store", type("", (), {"get_fresh": silent})())
        assert (await refresh(kit, token)).status == 503
        assert refreshes(kit) == {"unavailable": 1}
