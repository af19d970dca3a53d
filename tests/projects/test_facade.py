"""``kit.projects`` and ``kit.sessions`` act for authenticated callers only."""

import inspect
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from starlette.authentication import UnauthenticatedUser
from starlette.exceptions import HTTPException

from projkit import Principal, ProjKit
from projkit.auth.host_sessions import Sessions
from projkit.errors import UnauthenticatedError
from projkit.identity import ANONYMOUS
from projkit.projects.facade import Projects
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
ARGUMENTS: dict[str, Any] = {
    "identifier": "0199a3f2-6c1e-7b4a-9d0e-3f5a8c2b7e61",
    "changes": {},
    "session_id": "x",
}


def methods_of(facade: type) -> list[str]:
    """Return the names of the public methods."""
    return [name for name, _ in inspect.getmembers(facade, inspect.isfunction) if not name.startswith("_")]


def arguments_of(method: Any) -> dict[str, Any]:
    """Return arguments for the required parameters after the caller."""
    _, *parameters = inspect.signature(method).parameters.values()
    required = [
        each.name for each in parameters if each.kind != each.VAR_KEYWORD and each.default is each.empty
    ]
    return {name: ARGUMENTS[name] for name in required}


@pytest.mark.parametrize("method", methods_of(Projects))
@pytest.mark.parametrize("caller", [ANONYMOUS, None, UnauthenticatedUser()], ids=["kit", "none", "starlette"])
async def test_an_anonymous_caller(tmp_path: Path, method: str, caller: Any) -> None:
    """Every method refuses a caller without a subject, which all such callers would share, before the kit starts."""
    file = tmp_path / "projkit.db"
    call = getattr(ProjKit(settings_for(f"sqlite:///{file}")).projects, method)
    with pytest.raises(UnauthenticatedError) as caught:
        await call(caller, **arguments_of(call))
    assert isinstance(caught.value, HTTPException)
    assert "require_scopes" in caught.value.__notes__[0]
    assert not file.exists()


@pytest.mark.parametrize("method", methods_of(Projects))
async def test_a_caller_of_another_kind(tmp_path: Path, method: str) -> None:
    """A user object of the host is rejected by the name of its class, even if it looks like a principal."""

    class User:
        is_authenticated = True
        subject, tenant_id = "alice", ""

    call = getattr(ProjKit(settings_for(f"sqlite:///{tmp_path}/projkit.db")).projects, method)
    with pytest.raises(TypeError, match="needs a Principal, not User"):
        await call(User(), **arguments_of(call))


@pytest.mark.parametrize("method", methods_of(Sessions))
async def test_sessions_of_no_subject(sqlite_url: str, method: str) -> None:
    """The methods of kit.sessions refuse the subject of an anonymous caller."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        call = getattr(kit.sessions, method)
        with pytest.raises(ValueError, match="subject must not be empty"):
            await call(ANONYMOUS.subject, **arguments_of(call))


async def test_an_authenticated_caller(tmp_path: Path) -> None:
    """A principal owns what it creates."""
    kit = ProjKit(settings_for(f"sqlite:///{tmp_path}/projkit.db"))
    async with kit.lifespan():
        await kit.projects.create(Principal("alice"), name="A")
    with sqlite3.connect(tmp_path / "projkit.db") as connection:
        assert connection.execute("SELECT DISTINCT owner_id FROM projkit_projects").fetchall() == [("alice",)]
