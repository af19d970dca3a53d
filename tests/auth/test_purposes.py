"""Every value that the kit hands out or reads, shown at every door: only the rightful one opens.

A new kind of value is a line in ``VALUES``, a new door one in ``DOORS``; which belong together stands in ``RIGHTFUL``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from projkit import ProjKit
from projkit.auth.csrf import session_binding
from projkit.auth.oidc.login_state import LABEL as OIDC_LABEL
from projkit.auth.oidc.login_state import LoginState
from projkit.auth.session_service import Client, IssuedTokens
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, cookie
from tests.auth.conftest import kit_with_keys
from tests.auth.users import AUTH, PASSWORD, PROJECTS, SAME_ORIGIN, add_user, auth_services

pytestmark = pytest.mark.anyio


@dataclass
class World:
    """A kit in which alice has a session and her account has reached the limit of failures."""

    kit: ProjKit
    issued: IssuedTokens
    cursor: str
    login_state: str
    login: LoginState

    @property
    def services(self) -> Any:
        """The services of the kit's routes."""
        return auth_services(self.kit)


@pytest.fixture(scope="module")
async def shut_kit(
    anyio_backend: str, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ProjKit]:
    """A kit with alice, her three projects, and her account limited to known devices."""
    changes: dict[str, Any] = {
        "login_limit_account": "1/hour", "login_limit_address": "100000/minute", "public_url": "http://127.0.0.1",
        # Nothing listens there: a login that is started cannot continue at the provider.
        "oidc_providers": {"acme": {"issuer": "http://127.0.0.1:9", "client_id": "projkit"}},
    }  # fmt: skip
    async with kit_with_keys(tmp_path_factory.mktemp("purposes"), sqlite_template, **changes) as kit:
        await add_user(kit, "alice")
        for status in (401, 429):
            wrong = {"username": "alice", "password": "a guess"}
            assert (await ask(kit, "POST", f"{AUTH}/login", json=wrong)).status == status
        for name in "ABC":
            assert (
                await ask(kit, "POST", PROJECTS, [bearer(forge.token())], json={"name": name})
            ).status == 201
        yield kit


@pytest.fixture
async def world(shut_kit: ProjKit) -> World:
    """The kit with a session of its own for each test."""
    services = auth_services(shut_kit)
    client = Client("203.0.113.5", "tests")
    issued = await services.sessions.open("alice", ("projects:read", "projects:write"), "", "cookie", client)
    page = await ask(shut_kit, "GET", PROJECTS, [bearer(forge.token())], query="limit=1")
    text, login = auth_services(shut_kit).oidc.login_states.start("acme", "/")
    return World(shut_kit, issued, page.json()["next_cursor"], text, login)


def id_token(kid: str = forge.NEWEST, **changes: Any) -> str:
    """Return the ID token that an OpenID provider with our keys would issue (OpenID Connect Core 1.0 §2)."""
    names = ("iss", "sub", "aud", "exp", "iat")
    payload = {name: value for name, value in forge.claims().items() if name in names} | {
        "nonce": "n",
        "at_hash": "h",
    }
    return forge.token({"alg": kid, "kid": kid, "typ": "JWT"} | changes, payload, kid=kid)


VALUES: Final[dict[str, Callable[[World], str]]] = {
    "access token": lambda world: world.issued.access_token,
    "access token without a session": lambda world: forge.token(),
    "refresh token": lambda world: world.issued.refresh_token,
    "session id": lambda world: world.issued.session_id,
    "CSRF value": lambda world: world.issued.csrf_token,
    "device token": lambda world: world.services.built_in.limits.new_device_token("0::alice"),
    "cursor": lambda world: world.cursor,
    "login state of an OIDC login": lambda world: world.login_state,
    "state of an OIDC login": lambda world: world.login.state,
    "nonce of an OIDC login": lambda world: world.login.nonce,
    "PKCE verifier of an OIDC login": lambda world: world.login.verifier,
    "legacy token": lambda world: forge.legacy(),
    "id token": lambda world: id_token(),
    "id token without a type": lambda world: id_token(typ=""),
    "id token of an HMAC": lambda world: id_token("HS256"),
    "id token typed as an access token": lambda world: id_token(typ="at+jwt"),
    "id token by the legacy secret": lambda world: forge.legacy(nonce="n", iss="projkit", aud="projkit"),
    "id token of others by the legacy secret": lambda world: forge.legacy(iss="https://accounts.example.com"),
    "refresh token of the legacy format": lambda world: forge.legacy(type="refresh"),
    "password reset of the legacy format": lambda world: forge.legacy(purpose="password_reset"),
    "id token by its use": lambda world: forge.legacy(token_use="id"),
    "logout token": lambda world: forge.token(forge.header(typ="logout+jwt")),
    "proof of possession": lambda world: forge.token(forge.header(typ="dpop+jwt")),
    "password": lambda world: PASSWORD,
    "user name": lambda world: "alice",
}

Door = Callable[[World, str], Awaitable[Answer]]


async def as_bearer(world: World, value: str) -> Answer:
    return await ask(world.kit, "GET", f"{AUTH}/session", [bearer(value)])


async def as_auth_cookie(world: World, value: str) -> Answer:
    return await ask(world.kit, "GET", f"{AUTH}/session", [cookie(auth_token=value)])


async def as_legacy_cookie(world: World, value: str) -> Answer:
    return await ask(world.kit, "GET", f"{AUTH}/session", [cookie(access_token=value)])


async def as_refresh_body(world: World, value: str) -> Answer:
    return await ask(world.kit, "POST", f"{AUTH}/refresh", json={"refresh_token": value})


async def as_refresh_cookie(world: World, value: str) -> Answer:
    cookies = cookie(refresh_token=value, csrf_token=world.issued.csrf_token)
    return await ask(
        world.kit,
        "POST",
        f"{AUTH}/refresh",
        [cookies, ("x-csrf-token", world.issued.csrf_token), SAME_ORIGIN],
    )


async def as_csrf_value(world: World, value: str) -> Answer:
    cookies = cookie(auth_token=world.issued.access_token, csrf_token=value)
    headers = [cookies, ("x-csrf-token", value), SAME_ORIGIN]
    return await ask(world.kit, "POST", PROJECTS, headers, json={"name": "D"})


async def as_cursor(world: World, value: str) -> Answer:
    return await ask(world.kit, "GET", PROJECTS, [bearer(forge.token())], query=f"limit=1&cursor={value}")


async def as_device(world: World, value: str) -> Answer:
    content = {"username": "alice", "password": PASSWORD}
    return await ask(world.kit, "POST", f"{AUTH}/login", [cookie(known_device=value)], json=content)


async def as_session(world: World, value: str) -> Answer:
    return await ask(world.kit, "DELETE", f"{AUTH}/sessions/{value}", [bearer(world.issued.access_token)])


async def as_login_state(world: World, value: str) -> Answer:
    query = f"state={world.login.state}&code=x"
    return await ask(world.kit, "GET", f"{AUTH}/oidc/acme/callback", [cookie(oidc_login=value)], query=query)


async def as_state(world: World, value: str) -> Answer:
    query = urlencode({"state": value, "code": "x"})
    return await ask(
        world.kit, "GET", f"{AUTH}/oidc/acme/callback", [cookie(oidc_login=world.login_state)], query=query
    )


# Each with the status of those whom it opens to, and the codes of those whom it does not.
DOORS: Final[dict[str, tuple[Door, int, set[str]]]] = {
    "bearer": (as_bearer, 200, {"invalid_token"}),
    "auth_token": (as_auth_cookie, 200, {"invalid_token"}),
    "access_token": (as_legacy_cookie, 200, {"invalid_token"}),
    "refresh in the body": (as_refresh_body, 200, {"invalid_refresh_token"}),
    # What is long enough to be one names a session, to which the CSRF value does not belong.
    "refresh in the cookie": (as_refresh_cookie, 200, {"invalid_refresh_token", "csrf_failed"}),
    "CSRF": (as_csrf_value, 201, {"csrf_failed"}),
    "cursor": (as_cursor, 200, {"invalid_cursor"}),
    "device": (as_device, 200, {"rate_limited"}),
    "session": (as_session, 204, {"not_found"}),
    "OIDC login state": (as_login_state, 503, {"login_failed"}),
    "OIDC state": (as_state, 503, {"login_failed"}),
}

RIGHTFUL: Final = {
    *((name, door) for name in ("access token", "access token without a session") for door in [*DOORS][:3]),
    ("legacy token", "bearer"),
    ("legacy token", "access_token"),
    ("refresh token", "refresh in the body"),
    ("refresh token", "refresh in the cookie"),
    ("CSRF value", "CSRF"),
    ("cursor", "cursor"),
    ("device token", "device"),
    ("session id", "session"),
    ("login state of an OIDC login", "OIDC login state"),
    ("state of an OIDC login", "OIDC state"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("value", VALUES)
async def test_every_value_at_every_door(world: World, value: str, door: str) -> None:
    """A value is accepted where it belongs, and rejected everywhere else like any unknown value."""
    enter, opened, refusals = DOORS[door]
    answer = await enter(world, VALUES[value](world))
    if (value, door) in RIGHTFUL:
        assert answer.status == opened, answer
    else:
        assert answer.code in refusals, answer


async def test_secrets_of_purposes_differ(world: World) -> None:
    """Each purpose has secrets of its own, so that no value's MAC can be taken for another's."""
    keys = world.services.keys
    labels = ("csrf", "refresh", "session-id", "known-device", "cursor", OIDC_LABEL)
    derived = [secret for label in labels for secret in keys.secrets(label)]
    assert len(set(derived)) == len(derived) == len(labels) * len(forge.ALGORITHMS)
    assert all(len(secret) == 32 for secret in derived)


async def test_values_of_another_session(world: World) -> None:
    """A CSRF token is bound to its session: one of another session, of the subject or of no one is rejected."""
    csrf = world.services.csrf
    for binding in (
        "session:other",
        "subject:0::alice",
        "session:",
        "",
        session_binding(world.issued.session_id) + "x",
    ):
        assert (await as_csrf_value(world, csrf.issue(binding))).status == 403
    assert (await as_csrf_value(world, csrf.issue(session_binding(world.issued.session_id)))).status == 201
