"""Access tokens of an external issuer: taken as Bearer, by that issuer's keys alone."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from starlette.responses import JSONResponse

from projkit import ProjKit
from projkit.auth.oidc.fetch import Fetcher
from projkit.auth.oidc.provider import KEYS_SECONDS, Provider
from projkit.auth.oidc.resource import ExternalTokens
from projkit.errors import InvalidTokenError
from tests.auth.oidc.conftest import AUTH, ORIGIN, RESOURCE_AUDIENCE, OpenKit, settings_with
from tests.auth.oidc.forged import by_hmac, encodings, unsigned, with_header
from tests.auth.oidc.provider import DISCOVERY, ISSUED_SECONDS, JWKS, OpenIdProvider, new_key
from tests.conftest import SECRET, token_for
from tests.services import open_sqlite

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"
BOTH = "projects:read projects:write"


class App(httpx2.AsyncClient):
    """A client without a browser."""

    def __init__(self, kit: ProjKit) -> None:
        super().__init__(transport=httpx2.ASGITransport(app=kit), base_url=ORIGIN)

    async def status(self, token: str, path: str = URL) -> int:
        """Return the status of a request with a Bearer token."""
        answer = await self.get(path, headers={"Authorization": f"Bearer {token}"})
        if answer.status_code == 401:
            assert answer.json()["code"] == "invalid_token"
        return answer.status_code

    async def session(self, token: str) -> dict[str, Any]:
        """Return the session of a Bearer token."""
        answer = await self.get(f"{AUTH}/session", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content


@pytest.fixture
async def app(kit: ProjKit) -> AsyncIterator[App]:
    """A client of a kit that accepts the provider's tokens."""
    async with App(kit) as opened:
        yield opened


def token_of(provider: OpenIdProvider, **changes: Any) -> str:
    """Return a valid token with the given changes."""
    arguments: dict[str, Any] = {"subject": "ext-1", "audience": RESOURCE_AUDIENCE, "scope": BOTH, **changes}
    return provider.access_token(**arguments)


async def test_a_token_of_the_issuer(any_database_url: str, provider: OpenIdProvider) -> None:
    """An external token authenticates its subject with the scopes it contains, and owns what it creates."""
    kit = ProjKit(settings_with(any_database_url, provider))
    async with kit.lifespan(), App(kit) as app:
        token = token_of(provider)
        session = await app.session(token)
        assert (session["subject"], session["token_format"]) == ("ext-1", "external")
        assert (session["session_id"], session["scopes"]) == (None, BOTH.split())
        created = await app.post(URL, json={"name": "x"}, headers={"Authorization": f"Bearer {token}"})
        assert created.status_code == 201
        assert created.json()["owner_id"] == "ext-1"
        assert (provider.hits[DISCOVERY], provider.hits[JWKS]) == (1, 1)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"])
async def test_algorithms(app: App, provider: OpenIdProvider, algorithm: str) -> None:
    """Every supported asymmetric algorithm is accepted."""
    provider.rotate(algorithm)
    assert await app.status(token_of(provider)) == 200


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": BOTH}, BOTH.split()), ({"scope": BOTH.split()}, BOTH.split()),
        ({"scope": None, "scp": BOTH}, BOTH.split()), ({"scope": None, "scp": BOTH.split()}, BOTH.split()),
        ({"scope": "projects:read openid email"}, ["projects:read"]), ({"scope": None}, []), ({"scope": ""}, []),
        ({"scope": 5}, []), ({"scope": [5, None, "projects:read"]}, ["projects:read"]), ({"scope": "admin"}, []),
        ({"scope": None, "scp": ["admin", "metrics:read"]}, ["metrics:read"]), ({"scope": "Projects:Read"}, []),
    ],
)  # fmt: skip
async def test_scopes(app: App, provider: OpenIdProvider, claims: dict[str, Any], scopes: list[str]) -> None:
    """Known scopes of scope or scp are granted, never admin, and none if there are none."""
    token = token_of(provider, **claims)
    assert (await app.session(token))["scopes"] == scopes
    assert await app.status(token) == (200 if "projects:read" in scopes else 403)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("audience", "another"), ("audience", None), ("audience", []), ("audience", ["another"]), ("audience", ""),
        ("audience", RESOURCE_AUDIENCE + "/"), ("audience", {RESOURCE_AUDIENCE: 1}), ("exp", None), ("exp", 1),
        ("exp", "4000000000"), ("exp", True), ("exp", 1e12), ("exp", -1), ("exp", 2**60), ("iat", 4_000_000_000),
        ("iat", "1"), ("nbf", 4_000_000_000), ("nbf", []), ("subject", None), ("subject", ""), ("subject", 7),
        ("subject", "x" * 256), ("subject", ["ext-1"]), ("iss", None), ("iss", "https://evil.example"),
        ("token_use", "id"), ("typ", "ID"), ("typ", "Refresh"), ("token_type", "refresh"),
    ],
)  # fmt: skip
async def test_wrong_claims(app: App, provider: OpenIdProvider, claim: str, value: object) -> None:
    """A token with a wrong or missing claim is 401."""
    assert await app.status(token_of(provider, **{claim: value})) == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"audience": ["another", RESOURCE_AUDIENCE]}, {"iat": None}, {"header": {"typ": "JWT"}},
        {"header": {"typ": None}}, {"header": {"typ": "application/at+jwt"}}, {"header": {"kid": None}},
        {"header": {"typ": "JWT"}, "typ": "Bearer", "nonce": "x"}, {"token_use": "access"}, {"sid": "of-the-provider"},
        {"user_id": "eve"},
    ],
)  # fmt: skip
async def test_tokens_as_providers_make_them(
    app: App, provider: OpenIdProvider, changes: dict[str, Any]
) -> None:
    """Variations among providers are accepted; a provider's ``sid`` is not a session of the kit."""
    session = await app.session(token_of(provider, **changes))
    assert (session["subject"], session["session_id"]) == ("ext-1", None)


@pytest.mark.parametrize("header", [{"typ": "secevent+jwt"}, {"typ": "dpop+jwt"}, {"typ": "logout+jwt"}])
async def test_other_types(app: App, provider: OpenIdProvider, header: dict[str, str]) -> None:
    """A token for another purpose is rejected, although the issuer signed it."""
    assert await app.status(token_of(provider, header=header)) == 401


@pytest.mark.parametrize("claim", ["nonce", "at_hash", "c_hash"])
async def test_an_id_token_is_no_access_token(app: App, provider: OpenIdProvider, claim: str) -> None:
    """An ID token is rejected even if its audience is ours."""
    assert await app.status(token_of(provider, header={"typ": "JWT"}, **{claim: "x"})) == 401


async def test_forgeries(app: App, provider: OpenIdProvider) -> None:
    """Forged tokens are 401: unsigned, by HMAC with a public key or our secret, by a foreign key."""
    key = provider.rotate("RS256")
    now = int(time.time())
    claims = {
        "iss": provider.issuer, "sub": "ext-1", "aud": RESOURCE_AUDIENCE, "iat": now, "exp": now + 600, "scope": BOTH,
        "jti": "1", "client_id": "app",
    }  # fmt: skip
    for algorithm in ("none", "None", "NONE", "nOnE"):
        assert await app.status(unsigned(claims, algorithm) + "AA") == 401
    for secret in (*encodings(key).values(), SECRET.encode()):
        for kid in (key.kid, "secret"):
            for typ in ("JWT", "at+jwt"):
                assert await app.status(by_hmac({"kid": kid, "typ": typ}, claims, secret)) == 401
    stranger = new_key("ES256")
    for header in (
        {},
        {"kid": key.kid},
        {"kid": provider.keys[0].kid},
        {"kid": None},
        {"alg": "ES256", "kid": "x"},
    ):
        assert await app.status(provider.sign(claims, key=stranger, **header)) == 401
    assert await app.status(provider.sign(claims, key=key)) == 200
    token = provider.sign(claims, key=key)
    for index in (5, len(token) // 2, len(token) - 3):
        assert (
            await app.status(token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :])
            == 401
        )


@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c", "crit", "x5t"])
async def test_keys_within_the_token(app: App, provider: OpenIdProvider, member: str) -> None:
    """A token that contains or references its own key is rejected, and the reference is not fetched."""
    stranger = new_key("ES256")
    value: Any = {
        "jwk": stranger.as_dict(private=False), "jku": f"{provider.issuer}/canary", "x5u": f"{provider.issuer}/canary",
        "x5c": ["AAAA"], "crit": ["exp"], "x5t": "AAAA",
    }[member]  # fmt: skip
    claims = {"iss": provider.issuer, "sub": "x", "aud": RESOURCE_AUDIENCE, "exp": int(time.time()) + 600}
    header = {"alg": "ES256", "typ": "at+jwt", "kid": "/canary", member: value}
    assert await app.status(with_header(header, claims, stranger)) == 401
    assert not provider.hits


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "' OR 1=1 --", "http://127.0.0.1:1/", "x" * 2000, "\x00", "\r\n", ""]
)
async def test_strange_key_names(app: App, provider: OpenIdProvider, kid: str) -> None:
    """A kid is only compared with the kids of the JWK Set."""
    claims = {"iss": provider.issuer, "sub": "x", "aud": RESOURCE_AUDIENCE, "exp": int(time.time()) + 600}
    assert await app.status(with_header({"alg": "ES256", "kid": kid}, claims, new_key("ES256"))) == 401
    assert provider.hits.keys() <= {DISCOVERY, JWKS}


async def test_a_storm_of_unknown_keys(app: App, provider: OpenIdProvider) -> None:
    """Two hundred forged tokens with different kids cause two fetches, and valid tokens none."""
    good = token_of(provider)
    assert await app.status(good) == 200
    stranger = new_key("ES256")
    forged = [token_of(provider, key=stranger, header={"kid": f"forged-{number}"}) for number in range(200)]
    assert set(await asyncio.gather(*(app.status(each) for each in forged))) == {401}
    assert provider.hits[JWKS] <= 2
    assert await app.status(good) == 200


async def test_a_new_key(app: App, provider: OpenIdProvider) -> None:
    """A token signed with a key that the provider has just published is accepted at once; older tokens stay valid."""
    before = token_of(provider)
    assert await app.status(before) == 200
    provider.rotate("EdDSA")
    assert await app.status(token_of(provider)) == 200
    assert await app.status(before) == 200
    assert provider.hits[JWKS] == 2


async def test_the_provider_cannot_be_reached(app: App, provider: OpenIdProvider) -> None:
    """While the provider's keys are unavailable, a token gets 503 with Retry-After, never 401 or 200."""
    provider.answers = {DISCOVERY: JSONResponse({}, 500)}
    for token in (token_of(provider), token_of(provider, key=new_key("ES256"))):
        answer = await app.get(URL, headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert provider.issuer not in answer.text
    # Our own tokens need no provider.
    assert await app.status(token_for(settings_with("sqlite:///x.db", provider), "alice")) == 200


async def test_our_own_tokens(app: App, provider: OpenIdProvider) -> None:
    """Tokens of the kit stay enhanced and are never verified with the provider's keys, nor vice versa."""
    settings = settings_with("sqlite:///x.db", provider)
    assert (await app.session(token_for(settings, "alice")))["token_format"] == "enhanced"
    assert not provider.hits
    # Signed by us, but in the issuer's name; and signed by the issuer, in ours.
    assert (
        await app.status(token_for(settings.model_copy(update={"issuer": provider.issuer}), "alice")) == 401
    )
    assert await app.status(token_of(provider, iss=settings.issuer, audience=settings.audience)) == 401
    for issuer in (provider.issuer + "/", provider.issuer.upper(), [provider.issuer]):
        assert await app.status(token_of(provider, iss=issuer)) == 401


@pytest.mark.parametrize("cookie", ["auth_token", "access_token"])
async def test_not_in_cookies(open_kit: OpenKit, provider: OpenIdProvider, cookie: str) -> None:
    """An external token is a Bearer token: in a cookie it is 401."""
    async with open_kit(legacy_secret="another secret of the tests, long enough") as kit, App(kit) as app:
        token = token_of(provider)
        assert await app.status(token) == 200
        for typ in ("at+jwt", "JWT", None):
            value = token_of(provider, header={"typ": typ})
            answer = await app.get(URL, headers={"Cookie": f"{cookie}={value}"})
            assert answer.status_code == 401
        assert (await app.get(URL, headers={"Cookie": f"{cookie}={token}"})).status_code == 401


async def test_without_the_setting(open_kit: OpenKit, provider: OpenIdProvider) -> None:
    """Without a configured external issuer, external tokens are rejected without a request."""
    async with open_kit(oidc_resource_issuer="", oidc_resource_audience="") as kit, App(kit) as app:
        assert await app.status(token_of(provider)) == 401
        assert not provider.hits


async def test_calling_tokens_back(app: App, provider: OpenIdProvider, sqlite_url: str) -> None:
    """A logout ends one token, a logout everywhere all older ones; a disabled user's tokens are all rejected."""
    tokens = [token_of(provider, iat=int(time.time()) - 5) for _ in range(2)]
    headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
    assert (await app.post(f"{AUTH}/logout", headers=headers[0])).status_code == 204
    assert [await app.status(token) for token in tokens] == [401, 200]
    assert (await app.post(f"{AUTH}/logout-all", headers=headers[1])).status_code == 204
    assert await app.status(tokens[1]) == 401
    newer = token_of(provider, iat=int(time.time()) + 2)
    assert await app.status(newer) == 200
    with open_sqlite(sqlite_url) as database:
        database.execute("UPDATE projkit_users SET disabled_at = created_at")
    assert await app.status(newer) == 401


async def test_tenants(open_kit: OpenKit, provider: OpenIdProvider) -> None:
    """With TENANT_CLAIM, the token must contain the tenant."""
    async with open_kit(tenant_claim="org") as kit, App(kit) as app:
        red, blue = (token_of(provider, org=each) for each in ("red", "blue"))
        headers = {"Authorization": f"Bearer {red}"}
        assert (await app.post(URL, json={"name": "x"}, headers=headers)).status_code == 201
        for token, count in ((red, 1), (blue, 0)):
            answer = await app.get(URL, headers={"Authorization": f"Bearer {token}"})
            assert len(answer.json()["items"]) == count
        assert await app.status(token_of(provider)) == 401


async def test_they_are_counted(kit: ProjKit, app: App, provider: OpenIdProvider) -> None:
    """The metric counts external tokens separately, accepted and rejected."""
    await app.status(token_of(provider))
    await app.status(token_of(provider, audience="another"))
    for outcome in ("accepted", "refused"):
        labels = {"transport": "bearer", "format": "external", "outcome": outcome}
        assert kit.registry.get_sample_value("projkit_auth_credentials_total", labels) == 1


class Seconds:
    """Seconds that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def test_what_is_remembered(provider: OpenIdProvider) -> None:
    """A verified token is not verified again, but never outlives its expiry, nor the key that it is by."""
    clock, now = Seconds(0.0), Seconds(time.time())
    client = Provider(provider.issuer, Fetcher(), monotonic=clock)
    tokens = ExternalTokens(client, settings_with("sqlite:///x.db", provider), now=now)
    token, other = token_of(provider), token_of(provider, exp=int(now.now) + 3600)
    first = await tokens.verify(token)
    assert await tokens.verify(token) is first
    await tokens.verify(other)
    now.now += ISSUED_SECONDS + 20  # the clocks may differ by half a minute
    assert await tokens.verify(token) is not first
    now.now += 20
    with pytest.raises(InvalidTokenError):
        await tokens.verify(token)
    provider.rotate(keep_old=False)
    assert (await tokens.verify(other)).subject == "ext-1"  # the change has not been seen yet
    clock.now += KEYS_SECONDS + 1
    with pytest.raises(InvalidTokenError):
        await tokens.verify(other)


async def test_the_cache_is_bounded(provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache holds a limited number of tokens."""
    monkeypatch.setattr("projkit.auth.oidc.resource.CACHED_TOKENS", 3)
    client = Provider(provider.issuer, Fetcher())
    tokens = ExternalTokens(client, settings_with("sqlite:///x.db", provider))
    encoded = [token_of(provider, jti=str(number)) for number in range(5)]
    principals = [await tokens.verify(token) for token in encoded]
    assert await tokens.verify(encoded[-1]) is principals[-1]
    assert await tokens.verify(encoded[1]) is not principals[1]
