"""Legacy tokens: their claims, their lifetime, and the headers of responses to them."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

import pytest

from projkit import ProjKit
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, cookie, refuses
from tests.auth.conftest import OpenKit
from tests.auth.users import AUTH, auth_services

pytestmark = pytest.mark.anyio

MONTH: Final = 2_592_000  # LEGACY_MAX_AGE_SECONDS
ABSENT: Final = ...


@pytest.fixture
def any_database_url(sqlite_url: str) -> str:
    """The database makes no difference to legacy tokens."""
    return sqlite_url


async def whoami(kit: ProjKit, token: str) -> Answer:
    """Return the response to the token, which is the same as Bearer and in the cookie."""
    answers = [
        await ask(kit, "GET", f"{AUTH}/session", [way]) for way in (bearer(token), cookie(access_token=token))
    ]
    assert answers[0].status == answers[1].status
    return answers[0]


@pytest.mark.parametrize(
    ("claims", "subject"),
    [
        ({"sub": "alice"}, "alice"), ({"sub": 7}, "7"), ({"sub": 0}, "0"), ({"sub": -1}, "-1"),
        ({"sub": 2**63 - 1}, str(2**63 - 1)), ({"sub": ABSENT, "user_id": "u1"}, "u1"),
        ({"sub": ABSENT, "user_id": 42}, "42"),
        ({"sub": "alice", "user_id": "bob"}, "alice"), ({"sub": "alice", "user_id": 7}, "alice"),
        ({"sub": "é" * 255}, "é" * 255),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
async def test_subjects(shared_kit: ProjKit, claims: dict[str, Any], subject: str) -> None:
    """The subject is ``sub``, else ``user_id``; integers become text."""
    answer = await whoami(shared_kit, forge.legacy(**claims))
    assert (answer.status, answer.json()["subject"]) == (200, subject)
    assert answer.json()["token_format"] == "legacy"


NOT_SUBJECTS: Final[tuple[Any, ...]] = (
    None, "", True, False, 1.5, 1.0, [], {}, ["alice"], {"id": 1}, "x" * 256, "\0", "a\ud800", 2**63, 10**300,
)  # fmt: skip


@pytest.mark.parametrize("value", NOT_SUBJECTS, ids=lambda value: repr(value)[:20])
async def test_no_subjects(shared_kit: ProjKit, value: Any) -> None:
    """A subject that is neither text nor an integer is rejected, and ``user_id`` does not replace a bad ``sub``."""
    for claims in ({"sub": value}, {"sub": value, "user_id": "bob"}, {"sub": ABSENT, "user_id": value}):
        refuses(await whoami(shared_kit, forge.legacy(**claims)))
    refuses(await whoami(shared_kit, forge.legacy(sub=ABSENT)))


@pytest.mark.parametrize(
    ("iat", "exp", "good"),
    [
        (0, 900, True), (-900, -10, True), (-900, -60, False), (0, ABSENT, False), (0, MONTH * 20, True),
        (10, 900, True),
        (90, 900, False), (-MONTH + 60, 900, True), (-MONTH - 60, 900, False), (ABSENT, 900, True),
        (ABSENT, MONTH - 60, True),
        (ABSENT, MONTH + 60, False), (ABSENT, MONTH * 20, False), (ABSENT, -60, False), (-10**9, 900, False),
    ],
    ids=str,
)  # fmt: skip
async def test_lifetime(shared_kit: ProjKit, iat: Any, exp: Any, good: bool) -> None:
    """A token ends with its ``exp`` and its maximum age; without ``iat`` it may have no more than that to go."""
    now = int(time.time())
    claims: dict[str, Any] = {
        name: value if value is ABSENT else now + value for name, value in (("iat", iat), ("exp", exp))
    }
    answer = await whoami(shared_kit, forge.legacy(**claims))
    assert answer.status == (200 if good else 401)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value", [None, True, "4000000000", 4e9, 4_000_000_000.5, -1, 253_402_300_800, 2**63, [], {}], ids=repr
)
async def test_times(shared_kit: ProjKit, name: str, value: Any) -> None:
    """Times are whole seconds in range here as well."""
    refuses(await whoami(shared_kit, forge.legacy(**{name: value})))


@pytest.mark.parametrize(
    "value", ["admin", "admin monitoring:read metrics:read", ["admin"], ["admin", "projects:read"]]
)
@pytest.mark.parametrize("name", ["scope", "scopes", "scp", "roles", "permissions"])
async def test_no_administrators(shared_kit: ProjKit, name: str, value: Any) -> None:
    """No claim grants a legacy token administrative scopes or access to metrics."""
    token = forge.legacy(**{name: value, "is_admin": True, "is_superuser": True, "admin": True})
    answer = await whoami(shared_kit, token)
    assert answer.status == 200
    assert set(answer.json()["scopes"]) <= {"projects:read", "projects:write"}
    answer = await ask(shared_kit, "GET", "/metrics", [bearer(token)])
    assert (answer.status, answer.code) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        (ABSENT, ["projects:read", "projects:write"]), ("projects:read", ["projects:read"]),
        (["projects:write", 7, None], ["projects:write"]), ("projects:read admin", ["projects:read"]),
    ],
)  # fmt: skip
async def test_scopes(shared_kit: ProjKit, scope: Any, granted: list[str]) -> None:
    """A legacy token may say that it is for less than both scopes of projects, never for more."""
    assert (await whoami(shared_kit, forge.legacy(scope=scope))).json()["scopes"] == granted


@pytest.mark.parametrize(
    "head",
    [
        {"alg": "HS256", "typ": "at+jwt"}, {"alg": "HS256", "typ": "at+jwt", "kid": "EdDSA"},
        {"alg": "HS384", "typ": "JWT"},
        {"alg": "HS512"}, {"alg": "none"}, {"alg": "HS256", "typ": "refresh"}, {"alg": "HS256", "typ": ""},
        {"typ": "JWT"},
        {"alg": "HS256", "typ": None}, {"alg": "HS256", "typ": "logout+jwt"}, {"alg": "hs256"}, {"alg": "RS256"}, {},
    ],
    ids=repr,
)  # fmt: skip
async def test_headers(shared_kit: ProjKit, head: dict[str, Any]) -> None:
    """A legacy token has HS256 and no other type than JWT's."""
    refuses(await whoami(shared_kit, forge.legacy(head=head)))
    for good in (
        {"alg": "HS256"},
        {"alg": "HS256", "typ": "JWT"},
        {"alg": "HS256", "kid": "whatever", "typ": "jwt"},
    ):
        assert (await whoami(shared_kit, forge.legacy(head=good))).status == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "other"}, {"iss": ["projkit"]}, {"iss": None}, {"aud": "other"}, {"aud": "projkit2"},
        {"aud": ["other"]},
        {"aud": None}, {"aud": {"projkit": 1}}, {"aud": [["projkit"]]}, {"iss": "projki"}, {"aud": ""}, {"iss": ""},
        {"aud": []},
    ],
    ids=repr,
)  # fmt: skip
async def test_for_another_audience_or_issuer(shared_kit: ProjKit, claims: dict[str, Any]) -> None:
    """Issuer and audience may be absent; where they are there, they are exactly ours."""
    refuses(await whoami(shared_kit, forge.legacy(**claims)))
    for good in (
        {"iss": "projkit"},
        {"aud": "projkit"},
        {"aud": ["x", "projkit"]},
        {"iss": "projkit", "aud": ["projkit"]},
    ):
        assert (await whoami(shared_kit, forge.legacy(**good))).status == 200


async def test_off_until_configured(open_kit: OpenKit) -> None:
    """Without LEGACY_SECRET no legacy token is accepted, not even one signed with the kit's own secret."""
    async with open_kit() as kit:
        secret = kit.settings.secret
        assert secret is not None
        for each in (forge.LEGACY_SECRET, secret.get_secret_value(), ""):
            refuses(await whoami(kit, forge.legacy(each)))


async def test_several_secrets(open_kit: OpenKit) -> None:
    """All the configured secrets verify."""
    secrets = [
        "the first of two old secrets, and long enough",
        "the second of two old secrets, and long enough",
    ]
    async with open_kit(legacy_secret=secrets) as kit:
        for secret in secrets:
            assert (await whoami(kit, forge.legacy(secret))).status == 200
        refuses(await whoami(kit, forge.legacy(f"{secrets[0]} ")))


async def test_what_answers_say(open_kit: OpenKit) -> None:
    """A response to a legacy token has the dates of its deprecation (RFC 9745) and sunset (RFC 8594)."""
    sunset = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    deprecated = datetime(2026, 3, 1, tzinfo=UTC)
    async with open_kit(
        legacy_secret=forge.LEGACY_SECRET, legacy_sunset=sunset, legacy_deprecated_at=deprecated
    ) as kit:
        enhanced = auth_services(kit).issuer.issue("alice", ("projects:read",))
        answers = [
            await whoami(kit, forge.legacy()),
            await ask(kit, "GET", "/api/v1/projects/nothing", [bearer(forge.legacy())]),
            await ask(kit, "GET", "/metrics", [cookie(access_token=forge.legacy())]),
            await ask(
                kit, "POST", "/api/v1/projects", [cookie(access_token=forge.legacy())], json={"name": "A"}
            ),
        ]
        assert [answer.status for answer in answers] == [200, 404, 403, 403]
        for answer in answers:
            assert answer.header("deprecation") == f"@{int(deprecated.timestamp())}"
            assert parsedate_to_datetime(answer.header("sunset") or "") == sunset
        others = [
            await ask(kit, "GET", f"{AUTH}/session", [bearer(enhanced), cookie(access_token=forge.legacy())]),
            await ask(kit, "GET", f"{AUTH}/session", [cookie(access_token="x")]),
            await ask(kit, "GET", f"{AUTH}/jwks", [cookie(access_token=forge.legacy())]),
        ]
        for answer in others:
            assert answer.header("deprecation") is answer.header("sunset") is None
    async with open_kit(legacy_secret=forge.LEGACY_SECRET) as kit:
        answer = await whoami(kit, forge.legacy())
        assert answer.header("deprecation") is not None
        assert answer.header("sunset") is None


async def test_sunset(open_kit: OpenKit) -> None:
    """From the sunset on, every legacy token is rejected, including one that was verified before."""
    sunset = datetime.now(UTC) + timedelta(seconds=1.5)
    async with open_kit(legacy_secret=forge.LEGACY_SECRET, legacy_sunset=sunset) as kit:
        token = forge.legacy()
        assert (await whoami(kit, token)).status == 200
        await asyncio.sleep((sunset - datetime.now(UTC)).total_seconds() + 0.05)
        refuses(await whoami(kit, token))
        refuses(await whoami(kit, forge.legacy()))


async def test_valid_after(open_kit: OpenKit) -> None:
    """After a user has logged out everywhere, legacy tokens that are older or have no iat are rejected."""
    async with open_kit(legacy_secret=forge.LEGACY_SECRET) as kit:
        now = int(time.time())
        old, ageless = forge.legacy(iat=now - 5), forge.legacy(iat=ABSENT)
        bobs = forge.legacy(sub="bob", iat=now - 5)
        for token in (old, ageless, bobs):
            assert (await whoami(kit, token)).status == 200
        assert (await ask(kit, "POST", f"{AUTH}/logout-all", [bearer(old)])).status == 204
        for token in (old, ageless, forge.legacy(iat=ABSENT), forge.legacy(iat=now - 1), forge.legacy(iat=0)):
            refuses(await whoami(kit, token))
        assert (await whoami(kit, forge.legacy(iat=int(time.time()) + 2))).status == 200
        assert (await whoami(kit, bobs)).status == 200


async def test_disabled_users(open_kit: OpenKit) -> None:
    """A disabled user's legacy tokens are rejected at once, and remain invalid when the user is enabled
    again.
    """
    async with open_kit(legacy_secret=forge.LEGACY_SECRET) as kit:
        users = auth_services(kit).users
        await users.add("Alice", None, subject="alice", scopes=())
        token = forge.legacy(iat=int(time.time()) - 5)
        assert (await whoami(kit, token)).status == 200
        await users.set_disabled("alice", disabled=True)
        refuses(await whoami(kit, token))
        refuses(await whoami(kit, forge.legacy(iat=int(time.time()) + 2)))
        await users.set_disabled("alice", disabled=False)
        refuses(await whoami(kit, token))
        assert (await whoami(kit, forge.legacy(iat=int(time.time()) + 2))).status == 200


async def test_logging_out(open_kit: OpenKit) -> None:
    """Logging out with a legacy token ends that token, and no other."""
    async with open_kit(legacy_secret=forge.LEGACY_SECRET) as kit:
        one, other = forge.legacy(), forge.legacy(iat=int(time.time()) - 10)
        assert (await ask(kit, "POST", f"{AUTH}/logout", [bearer(one)])).status == 204
        refuses(await whoami(kit, one))
        assert (await whoami(kit, other)).status == 200


async def test_tenants(open_kit: OpenKit) -> None:
    """With TENANT_CLAIM, a legacy token must contain the tenant too."""
    async with open_kit(legacy_secret=forge.LEGACY_SECRET, tenant_claim="org") as kit:
        assert (await whoami(kit, forge.legacy(org="acme"))).status == 200
        for org in (ABSENT, None, "", 7, True, ["acme"], "x" * 256, "\0"):
            refuses(await whoami(kit, forge.legacy(org=org)))
