"""A guarded host."""

from collections.abc import AsyncIterator

import pytest

from projkit import ProjKit
from projkit.auth.middleware import AuthMiddleware
from tests.auth.guards.guarded import RULES, Host, make_settings


@pytest.fixture
async def kit(sqlite_url: str) -> AsyncIterator[ProjKit]:
    """A started kit."""
    opened = ProjKit(make_settings(sqlite_url))
    async with opened.lifespan():
        yield opened


@pytest.fixture
def host() -> Host:
    """The host."""
    return Host()


@pytest.fixture
def app(kit: ProjKit, host: Host) -> AuthMiddleware:
    """The guarded host."""
    return AuthMiddleware(host, kit, rules=RULES)
