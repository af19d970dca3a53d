"""ID tokens: a login with an invalid one fails."""

from typing import Any

import pytest

from tests.auth.oidc.conftest import (
    CLIENT_ID,
    CLIENT_SECRET,
    Browser,
    refused,
)
from tests.auth.oidc.forged import by_hmac, encodings, unsigned, with_header
from tests.auth.oidc.provider import OpenIdProvider, new_key

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("nonce", None), ("nonce", "another"), ("nonce", 1), ("iss", None), ("iss", "https://evil.example"),
        ("iss", ["x"]), ("aud", None), ("aud", "another"), ("aud", []), ("aud", ["another"]), ("aud", CLIENT_ID + "x"),
        ("aud", {CLIENT_ID: 1}), ("aud", [CLIENT_ID, "another"]), ("azp", "another"), ("exp", None), ("exp", 1),
        ("exp", "never"), ("exp", True), ("exp", 1e12), ("iat", None), ("iat", 4_000_000_000), ("nbf", 4_000_000_000),
        ("sub", None), ("sub", ""), ("sub", 7), ("sub", "x" * 256), ("at_hash", "AAAA"), ("at_hash", 5),
    ],
)  # fmt: skip
async def test_claims_of_the_id_token(
    browser: Browser, provider: OpenIdProvider, claim: str, value: object
) -> None:
    """An ID token with a wrong or missing claim fails the login."""
    provider.claim_changes = {claim: value}
    assert refused(await browser.log_in())
    assert await browser.subject() is None


@pytest.mark.parametrize(
    "changes", [{"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID}, {"aud": [CLIENT_ID]}, {"at_hash": None}]
)
async def test_claims_that_are_right(
    browser: Browser, provider: OpenIdProvider, changes: dict[str, Any]
) -> None:
    """Several audiences with ours as azp, a list of one, and a missing at_hash are accepted."""
    provider.claim_changes = changes
    assert (await browser.log_in()).status_code == 303


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
async def test_unsigned_id_tokens(browser: Browser, provider: OpenIdProvider, algorithm: str) -> None:
    """An unsigned token is rejected in every spelling of ``none``."""
    provider.make_id_token = lambda claims: unsigned(claims, algorithm)
    assert refused(await browser.log_in())
    provider.make_id_token = lambda claims: unsigned(claims, algorithm) + "AAAA"
    assert refused(await browser.log_in())


async def test_id_tokens_by_hmac(browser: Browser, provider: OpenIdProvider) -> None:
    """HS256 is rejected with the public key in any encoding, or the client secret, as its secret."""
    key = provider.rotate("RS256")
    for secret in (*encodings(key).values(), CLIENT_SECRET.encode()):
        provider.make_id_token = lambda claims, secret=secret: by_hmac({"kid": key.kid}, claims, secret)
        assert refused(await browser.log_in())


async def test_id_tokens_by_other_keys(browser: Browser, provider: OpenIdProvider) -> None:
    """A signature of an unpublished key is rejected with its own kid, another kid, or none."""
    stranger = new_key("ES256")
    published = provider.keys[-1].kid
    for header in ({}, {"kid": published}, {"kid": None}):
        provider.make_id_token = lambda claims, header=header: provider.sign(claims, key=stranger, **header)
        assert refused(await browser.log_in())


@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c", "crit"])
async def test_keys_within_the_token(browser: Browser, provider: OpenIdProvider, member: str) -> None:
    """A token that contains or references its own key is rejected, and the reference is not fetched."""
    stranger = new_key("ES256")
    canary = "/canary"
    value: Any = {
        "jwk": stranger.as_dict(private=False), "jku": provider.issuer + canary, "x5u": provider.issuer + canary,
        "x5c": ["AAAA"], "crit": ["exp"],
    }[member]  # fmt: skip
    header = {"alg": "ES256", "kid": stranger.kid, member: value}
    provider.make_id_token = lambda claims: with_header(header, claims, stranger)
    assert refused(await browser.log_in())
    assert provider.hits[canary] == 0


async def test_an_access_token_is_no_id_token(browser: Browser, provider: OpenIdProvider) -> None:
    """A token of the type at+jwt is rejected, even with the right claims."""
    provider.make_id_token = lambda claims: provider.sign(claims, typ="at+jwt")
    assert refused(await browser.log_in())


@pytest.mark.parametrize(
    "changes",
    [
        {"id_token": None},
        {"id_token": 5},
        {"id_token": "x"},
        {"id_token": "x.y.z"},
        {"id_token": "A" * 20_000},
    ],
)
async def test_answers_without_an_id_token(
    browser: Browser, provider: OpenIdProvider, changes: dict[str, Any]
) -> None:
    """A response without a well-formed ID token fails the login."""
    provider.token_changes = changes
    assert refused(await browser.log_in())


async def test_a_large_id_token(browser: Browser, provider: OpenIdProvider) -> None:
    """An ID token may be larger than an access token: providers list groups in it."""
    provider.claim_changes = {"groups": [f"{number:036}" for number in range(200)]}
    assert (await browser.log_in()).status_code == 303
