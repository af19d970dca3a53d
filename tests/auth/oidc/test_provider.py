"""A provider's metadata and keys: fetched once for all, stale if the provider fails, without request storms."""

import asyncio
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey
from starlette.responses import JSONResponse

from projkit.auth.jws import Unverified
from projkit.auth.oidc import cached_document, fetch
from projkit.auth.oidc.fetch import Fetcher
from projkit.auth.oidc.jwks import read_keys
from projkit.auth.oidc.provider import KEYS_SECONDS, METADATA_SECONDS, Provider
from projkit.errors import InvalidTokenError, ProviderUnavailableError
from tests.auth.oidc.provider import DISCOVERY, JWKS, OpenIdProvider, new_key

pytestmark = pytest.mark.anyio


class Time:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    """The clock of :func:`client`."""
    return Time()


@pytest.fixture
def client(provider: OpenIdProvider, time: Time) -> Provider:
    """The kit's client of the provider."""
    return Provider(provider.issuer, Fetcher(), monotonic=time)


def naming(kid: str | None, algorithm: str = "ES256") -> Unverified:
    """Return an unverified token with a kid."""
    return Unverified("", {"alg": algorithm, "kid": kid} if kid else {"alg": algorithm}, {})


async def test_single_flight(client: Provider, provider: OpenIdProvider) -> None:
    """Concurrent requests fetch each document once."""
    results = await asyncio.gather(*(client.keys() for _ in range(30)))
    assert all(each is results[0] for each in results)
    assert (provider.hits[DISCOVERY], provider.hits[JWKS]) == (1, 1)


async def test_a_cancelled_caller_does_not_cancel_the_fetch(
    client: Provider, provider: OpenIdProvider
) -> None:
    """A cancelled request does not cancel the fetch that others wait for."""
    provider.hanging = {JWKS}
    first, second = (asyncio.create_task(client.keys()) for _ in range(2))
    while not provider.hits[JWKS]:
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    provider.hanging = set()
    assert (await second).keys
    assert provider.hits[JWKS] == 1


async def test_documents_grow_old(client: Provider, provider: OpenIdProvider, time: Time) -> None:
    """Keys are refetched after five minutes, and the object changes only if they have changed."""
    before = await client.keys()
    time.now += KEYS_SECONDS - 1
    assert await client.keys() is before
    assert provider.hits[JWKS] == 1
    time.now += 2
    assert await client.keys() is before
    assert provider.hits[JWKS] == 2
    provider.rotate(keep_old=False)
    time.now += KEYS_SECONDS + 1
    after = await client.keys()
    assert after is not before
    assert not any(after.has(key) for key in before.keys)
    assert provider.hits[DISCOVERY] == 1
    time.now += METADATA_SECONDS
    await client.keys()
    assert provider.hits[DISCOVERY] == 2


async def test_unknown_keys_cool_down(client: Provider, provider: OpenIdProvider, time: Time) -> None:
    """A new key is fetched at once; a burst of unknown kids causes one fetch in ten seconds."""
    await client.keys()
    new = provider.rotate()
    assert (await client.key_for(naming(new.kid))).kid == new.kid
    assert provider.hits[JWKS] == 2
    for moment in range(1, 30):
        time.now += 1
        for number in range(10):
            with pytest.raises(InvalidTokenError):
                await client.key_for(naming(f"forged-{moment}-{number}"))
    assert provider.hits[JWKS] == 2 + 29 // int(cached_document.REFRESH_COOLDOWN_SECONDS)
    # Known ones are not held up by that.
    assert (await client.key_for(naming(new.kid))).kid == new.kid


async def test_unknown_keys_at_once(client: Provider, provider: OpenIdProvider) -> None:
    """Many unknown keys at the same time share one fetch."""
    await client.keys()
    lookups = [client.key_for(naming(f"forged-{number}")) for number in range(50)]
    results = await asyncio.gather(*lookups, return_exceptions=True)
    assert {type(each) for each in results} == {InvalidTokenError}
    assert provider.hits[JWKS] == 2


@pytest.mark.parametrize("algorithm", ["HS256", "none", "ES256K", "RS1", "", "dir"])
async def test_other_algorithms_cause_no_fetch(
    client: Provider, provider: OpenIdProvider, algorithm: str
) -> None:
    """A token with a disallowed algorithm is rejected before anything is fetched."""
    with pytest.raises(InvalidTokenError):
        await client.key_for(naming(provider.keys[0].kid, algorithm))
    assert not provider.hits


async def test_another_algorithm_than_the_key_is_for(client: Provider, provider: OpenIdProvider) -> None:
    """A key is valid for one algorithm, whatever the token's header is."""
    key = provider.rotate("RS256")
    assert (await client.key_for(naming(key.kid, "RS256"))).algorithm == "RS256"
    for other in ("RS512", "PS256", "ES256"):
        with pytest.raises(InvalidTokenError):
            await client.key_for(naming(key.kid, other))


@pytest.mark.parametrize("failure", ["error", "hanging", "nonsense"])
async def test_old_keys_are_kept(
    provider: OpenIdProvider, time: Time, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """While the keys are unavailable the previous ones stay valid without waiting, for one day."""
    monkeypatch.setattr(fetch, "SECONDS", 0.3)
    client = Provider(provider.issuer, Fetcher(), monotonic=time)
    before = await client.keys()
    if failure == "hanging":
        provider.hanging = {JWKS}
    else:
        answer = JSONResponse({}, 500) if failure == "error" else JSONResponse({"keys": 5})
        provider.answers = {JWKS: answer}
    time.now += KEYS_SECONDS + 1
    assert await client.keys() is before
    assert provider.hits[JWKS] == 2
    for _ in range(20):
        assert await client.keys() is before
    assert provider.hits[JWKS] == 2
    time.now += cached_document.RETRY_AFTER_SECONDS + 1
    assert await client.keys() is before  # at once, while it is asked for in the background
    assert provider.hits[JWKS] == 2
    with pytest.raises(ProviderUnavailableError):  # it is unknown whether there is such a key
        await client.key_for(naming("new"))
    assert provider.hits[JWKS] == 3
    time.now += cached_document.STALE_IF_ERROR_SECONDS
    with pytest.raises(ProviderUnavailableError):
        await client.keys()
    provider.hanging, provider.answers = set(), {}
    time.now += cached_document.RETRY_AFTER_SECONDS + 1
    assert (await client.keys()).keys
    await client.close()


async def test_a_quiet_night(client: Provider, provider: OpenIdProvider, time: Time) -> None:
    """Keys unused for hours are fetched again before they are used, since one may have been withdrawn."""
    withdrawn = provider.keys[0].kid
    await client.key_for(naming(withdrawn))
    provider.rotate(keep_old=False)
    time.now += 8 * 3600
    with pytest.raises(InvalidTokenError):
        await client.key_for(naming(withdrawn))


async def test_a_provider_that_was_never_reached(
    client: Provider, provider: OpenIdProvider, time: Time
) -> None:
    """Without any keys, every look-up fails at once for two seconds, without a fetch each time."""
    provider.answers = {DISCOVERY: JSONResponse({}, 503)}
    for _ in range(20):
        with pytest.raises(ProviderUnavailableError):
            await client.keys()
    hits = provider.hits[DISCOVERY]
    assert hits <= 2
    provider.answers = {}
    time.now += cached_document.RETRY_AFTER_SECONDS + 1
    assert (await client.keys()).keys


async def test_tokens_that_name_no_key(client: Provider, provider: OpenIdProvider, time: Time) -> None:
    """Tokens without a kid are verified with the provider's only key, and rejected if it has several."""
    assert (await client.key_for(naming(None))).kid == provider.keys[0].kid
    provider.rotate()
    time.now += KEYS_SECONDS + 1
    with pytest.raises(InvalidTokenError):
        await client.key_for(naming(None))


def jwk(algorithm: str, **changes: Any) -> dict[str, Any]:
    """A public key of a JWK Set."""
    key = new_key(algorithm)
    data = {**key.as_dict(private=False), "kid": "k", "use": "sig", "alg": algorithm, **changes}
    return {name: value for name, value in data.items() if value is not None}


UNUSABLE = [
    jwk("ES256", use="enc"), jwk("ES256", key_ops=["sign"]), jwk("ES256", key_ops="verify"), jwk("ES256", alg="RS256"),
    jwk("ES256", alg="HS256"), jwk("ES256", alg="none"), jwk("ES256", alg=["ES256"]), jwk("ES256", kid=5),
    jwk("ES256", crv="P-384"), jwk("ES256", crv="secp256k1"), jwk("ES256", x=None), jwk("ES256", x="AAAA"),
    jwk("RS256", alg="RSA-OAEP"), jwk("RS256", n="AQAB"), jwk("EdDSA", crv="X25519"), jwk("EdDSA", crv="Ed448"),
    {**OctKey.generate_key(256).as_dict(private=True), "kid": "k", "alg": "HS256"},
    {**ECKey.generate_key("P-256").as_dict(private=True), "kid": "k", "alg": "ES256"},
    {**OKPKey.generate_key("X25519").as_dict(private=False), "kid": "k"},
    {"kty": "RSA", "kid": "k", "e": "AQAB", "n": "g" + "A" * 169 + "E"},  # 1,024 bits
    {}, {"kty": "unheard-of"}, {"kty": 5}, "x", None,
]  # fmt: skip


@pytest.mark.parametrize("member", UNUSABLE)
def test_keys_that_cannot_be_used(member: Any) -> None:
    """Unusable members are skipped, and the other keys remain valid."""
    good = jwk("ES256", kid="good")
    assert [key.kid for key in read_keys({"keys": [member, good]}).keys] == ["good"]


@pytest.mark.parametrize(
    ("algorithm", "meant"), [("RS512", "RS256"), ("ES256", "ES256"), ("ES384", "ES384"), ("Ed25519", "EdDSA")]
)
def test_keys_that_name_no_algorithm(algorithm: str, meant: str) -> None:
    """The type of a key implies its algorithm; RS256 for RSA."""
    (key,) = read_keys({"keys": [jwk(algorithm, alg=None, use=None)]}).keys
    assert key.algorithm == meant


@pytest.mark.parametrize("document", [{}, {"keys": {}}, {"keys": None}])
def test_what_is_no_key_set(document: dict[str, Any]) -> None:
    """It is an error, and not a set without keys."""
    with pytest.raises(ValueError, match="not a list"):
        read_keys(document)
