"""Guards as keys: equal calls of the factories return one object per kit, which tests of hosts can replace."""

import gc
import weakref
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Security
from fastapi.testclient import TestClient

from projkit import Principal, ProjKit
from projkit.hosts import fastapi, litestar, starlette
from projkit.hosts.fastapi import current_principal, require_scopes
from tests.conftest import settings_for

FACTORIES: dict[str, Callable[..., Any]] = {
    "FastAPI": fastapi.require_scopes,
    "Starlette": starlette.require_scopes,
    "Litestar": litestar.require_scopes,
}


def make(url: str = "sqlite:///unused.db") -> ProjKit:
    """Create a kit that has not started."""
    return ProjKit(settings_for(url))


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_equal_calls_return_one_object(factory: Callable[..., Any]) -> None:
    """A factory returns the same guard for the same kit and scopes, in any order and however often one is named."""
    kit, other = make(), make()
    guard = factory(kit, "projects:read", "projects:write")
    assert factory(kit, "projects:write", "projects:read") is guard
    assert factory(kit, "projects:write", "projects:read", "projects:write") is guard
    different = [
        factory(kit), factory(kit, "projects:read"), factory(kit, "projects:write"), factory(other),
        factory(other, "projects:read", "projects:write"),
    ]  # fmt: skip
    assert len({id(each) for each in [guard, *different]}) == 6


def test_frameworks_have_guards_of_their_own() -> None:
    """One kit can guard the routes of several frameworks with the same scopes."""
    kit = make()
    guards = [factory(kit, "admin") for factory in FACTORIES.values()]
    assert len({id(guard) for guard in guards}) == 3


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_guards_keep_no_kit_alive(factory: Callable[..., Any]) -> None:
    """A kit and its guards are garbage-collected together."""
    kit = make()
    factory(kit, "projects:read")
    gone = weakref.ref(kit)
    del kit
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_guards_for_computed_scopes_do_not_pile_up(factory: Callable[..., Any]) -> None:
    """A host that creates a guard for the scopes of each request leaves none behind."""
    kit = make()
    kept = factory(kit, "projects:read")
    for number in range(100):
        factory(kit, f"tenant-{number}:read")
    gc.collect()
    assert list(kit.guards.values()) == [kept]


def host(kit: ProjKit) -> FastAPI:
    """A FastAPI application with a route for each way to require a caller."""
    app = FastAPI(lifespan=kit.lifespan)

    @app.get("/me")
    async def me(principal: Annotated[Principal, Depends(current_principal(kit))]) -> str:
        return principal.subject

    @app.get("/secured")
    async def secured(
        principal: Annotated[Principal, Security(current_principal(kit), scopes=["projects:write"])],
    ) -> str:
        return principal.subject

    @app.get("/read", dependencies=[Depends(require_scopes(kit, "projects:read"))])
    async def read(principal: Annotated[Principal, Depends(require_scopes(kit, "projects:read"))]) -> str:
        return principal.subject

    @app.get("/both")
    async def both(
        principal: Annotated[Principal, Depends(require_scopes(kit, "projects:read", "monitoring:read"))],
    ) -> str:
        return principal.subject

    return app


def test_overriding_a_dependency(sqlite_url: str) -> None:
    """dependency_overrides reaches each dependency by an equal call, replaces no other one, and can be undone."""
    kit = make(sqlite_url)
    app = host(kit)
    overrides = {
        current_principal(kit): ["/me", "/secured"],
        require_scopes(kit, "projects:read"): ["/read"],
        require_scopes(kit, "monitoring:read", "projects:read"): ["/both"],
    }
    with TestClient(app) as client:
        for dependency, paths in overrides.items():
            app.dependency_overrides[dependency] = lambda: Principal("tester")
            for path in ("/me", "/secured", "/read", "/both"):
                answer = client.get(path)
                if path in paths:
                    assert (answer.status_code, answer.json()) == (200, "tester")
                else:
                    assert answer.status_code == 401
            app.dependency_overrides.clear()
        assert client.get("/me").status_code == 401
