"""Logins and logouts that something else overtakes."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from projkit import Principal, ProjKit
from projkit.auth.passwords import Passwords
from projkit.auth.sessions.port import Session
from projkit.auth.wiring import AuthServices
from projkit.testing.internals import Internals
from tests.auth.stores import patient
from tests.conftest import Client, settings_for
from tests.faults.fault_scenario import AUTH, PASSWORD, add_users, bearer
from tests.redis_servers import Redises

__all__ = ["patient"]  # a fixture
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("patient")]

Overtakes = Callable[[AuthServices], Awaitable[object]]
CREDENTIALS = {"username": "alice", "password": PASSWORD}


async def disable(services: AuthServices) -> None:
    """Disable alice and end her sessions."""
    await services.users.set_disabled("alice", disabled=True)
    await services.store.revoke_all("", "alice")


async def set_password(services: AuthServices) -> None:
    """Alice gets another password, and her sessions end."""
    user = await services.users.by_name("alice")
    assert user is not None
    await services.users.set_password(user, await services.passwords.hash("another horse battery"))
    await services.store.revoke_all("", "alice")


def auth_services(kit: ProjKit) -> AuthServices:
    """The kit's authentication services."""
    return Internals(kit).running.auth


async def refused(kit: ProjKit, client: Client) -> None:
    """Assert that a login is rejected and leaves no session."""
    answer = await client.post(f"{AUTH}/login", json=CREDENTIALS)
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_credentials")
    assert "set-cookie" not in answer.headers
    services = auth_services(kit)
    user = await services.users.by_name("alice")
    assert user is not None
    assert await services.store.list("", "alice", user.created_at, limit=1) == []


@pytest.mark.parametrize("overtakes", [disable, set_password])
async def test_overtaken_while_the_password_is_looked_at(
    any_database_url: str, monkeypatch: pytest.MonkeyPatch, overtakes: Overtakes
) -> None:
    """Disabled, or given another password, while the old one is looked at: the login comes too late."""
    settings = settings_for(any_database_url)
    await add_users(settings, PASSWORD, "alice")
    kit = ProjKit(settings)
    verify = Passwords.verify

    async def slow_verify(self: Passwords, stored: str | None, password: str) -> bool:
        good = await verify(self, stored, password)
        await overtakes(auth_services(kit))
        return good

    async with kit.lifespan(), Client(kit, settings, None) as client:
        assert (await client.post(f"{AUTH}/login", json=CREDENTIALS)).status_code == 200
        monkeypatch.setattr(Passwords, "verify", slow_verify)
        await refused(kit, client)


@pytest.mark.parametrize("own_users", [True, False])
@pytest.mark.parametrize("too_early", [True, False])
async def test_overtaken_while_the_session_is_made(
    any_database_url: str, monkeypatch: pytest.MonkeyPatch, *, own_users: bool, too_early: bool
) -> None:
    """A user disabled while the session is created is rejected, with the kit's users and the host's."""
    settings = settings_for(any_database_url)
    await add_users(settings, PASSWORD, "alice")
    kit = ProjKit(settings, authenticate=None if own_users else lambda name, _: Principal(name))
    async with kit.lifespan(), Client(kit, settings, None) as client:
        services = auth_services(kit)
        create = services.store.create

        async def slow_create(session: Session, *, limit: int) -> Sequence[Session]:
            if too_early:
                await disable(services)
            excess = await create(session, limit=limit)
            if not too_early:
                await disable(services)
            return excess

        monkeypatch.setattr(services.store, "create", slow_create)
        await refused(kit, client)


async def test_ended_from_somewhere_else_a_moment_ago(
    sqlite_url: str, redis_alone: Redises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logging out of a session that another worker has just ended is a success all the same."""
    settings = settings_for(sqlite_url, redis_url=redis_alone.url, session_cache_seconds=0.5)
    await add_users(settings, PASSWORD, "alice")
    kits = [ProjKit(settings) for _ in range(2)]
    async with (
        kits[0].lifespan(),
        kits[1].lifespan(),
        Client(kits[0], settings, None) as one,
        Client(kits[1], settings, None) as other,
    ):
        # The other worker's memory lasts, however slow the machine is.
        monkeypatch.setattr(auth_services(kits[1]).store, "seconds", 3600.0)
        headers = bearer((await one.post(f"{AUTH}/login", json=CREDENTIALS)).json()["access_token"])
        assert (await other.get(f"{AUTH}/session", headers=headers)).status_code == 200
        assert (await one.post(f"{AUTH}/logout", headers=headers)).status_code == 204
        assert (await other.post(f"{AUTH}/logout", headers=headers)).status_code == 204
        assert (await other.get(f"{AUTH}/session", headers=headers)).status_code == 401
