"""Access tokens: issued tokens are accepted, all others get the same rejection."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from projkit import Principal, Settings
from projkit.auth.keys import KeyList, load_keys, read_keys_file
from projkit.auth.tokens import MAX_TOKEN_BYTES, TokenIssuer, TokenVerifier
from projkit.errors import ConfigurationError, InvalidTokenError
from tests.conftest import SECRET, Client, OpenClient, token_for

URL = "/api/v1/projects"
NOW = 1_750_000_000.0


class Time:
    """Seconds since 1970 that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def pair(time: Time, **changes: Any) -> tuple[TokenIssuer, TokenVerifier]:
    """An issuer and the verifier of its tokens."""
    settings = Settings(secret=SECRET, **changes)
    keys = load_keys(settings)
    return TokenIssuer(keys, settings, now=time), TokenVerifier(keys, settings, now=time)


def encode(header: dict[str, Any], claims: dict[str, Any], secret: str = SECRET) -> str:
    """A signed token with any header and claims."""
    return jwt.encode(header, claims, OctKey.import_key(secret.encode()), algorithms=["HS256", "HS512"])


HEADER: dict[str, Any] = {"alg": "HS256", "typ": "at+jwt", "kid": "secret"}
CLAIMS: dict[str, Any] = {
    "iss": "projkit", "sub": "alice", "aud": "projkit", "iat": int(NOW), "exp": int(NOW) + 900, "jti": "1",
    "client_id": "projkit", "scope": "projects:read", "ver": 1,
}  # fmt: skip


def test_an_issued_token_speaks_for_its_subject() -> None:
    """The verifier reads what the issuer wrote: subject, known scopes, format."""
    issuer, verifier = pair(Time())
    token = issuer.issue("alice", ["projects:read", "admin", "unheard:of"])
    principal = verifier.verify(token)
    assert principal == Principal("alice", frozenset({"projects:read", "admin"}), token_format="enhanced")
    assert principal.claims["client_id"] == "projkit"
    assert verifier.verify(token) is principal


def test_no_cached_token_outlives_its_expiry() -> None:
    """A token that was verified before is rejected once it has expired."""
    time = Time()
    issuer, verifier = pair(time)
    token = issuer.issue("alice", [], seconds=60)
    verifier.verify(token)
    time.now += 61
    with pytest.raises(InvalidTokenError):
        TokenVerifier(
            load_keys(Settings(secret=SECRET)), Settings(secret=SECRET), now=lambda: time.now + 31
        ).verify(token)
    time.now += 31
    with pytest.raises(InvalidTokenError):
        verifier.verify(token)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache holds a limited number of tokens; evicted ones are verified again."""
    monkeypatch.setattr("projkit.auth.tokens.CACHED_TOKENS", 2)
    issuer, verifier = pair(Time())
    tokens = [issuer.issue(f"user {number}", []) for number in range(4)]
    for _ in range(2):
        assert [verifier.verify(token).subject for token in tokens] == [
            f"user {number}" for number in range(4)
        ]
    assert [verifier.has_verified(token) for token in tokens] == [False, False, True, True]


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "other"}, {"aud": "other"}, {"aud": ["other"]}, {"exp": int(NOW) - 31}, {"exp": str(NOW)},
        {"exp": None}, {"exp": True}, {"exp": 1e300}, {"iat": int(NOW) + 3600}, {"iat": -1}, {"nbf": int(NOW) + 3600},
        {"sub": ""}, {"sub": 7}, {"sub": "x" * 256}, {"scope": ["projects:read"]}, {"exp": 253_402_300_800},
    ],
)  # fmt: skip
def test_wrong_claims(change: dict[str, Any]) -> None:
    """A valid signature does not make up for wrong claims."""
    _, verifier = pair(Time())
    verifier.verify(encode(HEADER, CLAIMS))
    with pytest.raises(InvalidTokenError):
        verifier.verify(encode(HEADER, {**CLAIMS, **change}))


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "iat", "exp", "jti", "client_id"])
def test_missing_claims(name: str) -> None:
    """Every claim of RFC 9068 §2.2 must be there."""
    _, verifier = pair(Time())
    with pytest.raises(InvalidTokenError):
        verifier.verify(encode(HEADER, {key: value for key, value in CLAIMS.items() if key != name}))


@pytest.mark.parametrize(
    "header",
    [
        {**HEADER, "typ": "JWT"}, {"alg": "HS256", "kid": "secret"}, {"alg": "HS256", "typ": "at+jwt"},
        {**HEADER, "kid": "other"}, {**HEADER, "kid": "../secret"}, {**HEADER, "alg": "HS512"},
        {**HEADER, "jku": "http://127.0.0.1/"}, {**HEADER, "cty": "JWT"},
    ],
)  # fmt: skip
def test_wrong_headers(header: dict[str, Any]) -> None:
    """Only the exact header of the format is accepted, even with a valid signature."""
    _, verifier = pair(Time())
    with pytest.raises(InvalidTokenError):
        verifier.verify(encode(header, CLAIMS))


def b64(value: Any) -> str:
    """Base64url without padding of JSON or bytes."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


TWO_ALGORITHMS = b'{"alg":"HS256","alg":"none","typ":"at+jwt","kid":"secret"}'


@pytest.mark.parametrize(
    "mangle",
    [
        lambda h, p, s: f"{h}.{p}.", lambda h, p, s: f"{h}.{p}", lambda h, p, s: f"{h}.{p}.{s}.{s}",
        lambda h, p, s: f"{h}.{p}.{s}=", lambda h, p, s: f" {h}.{p}.{s}", lambda h, p, s: f"{h}.{p}.{s}\n",
        lambda h, p, s: f"{h}.{p}.{s[:-4]}AAAA", lambda h, p, s: f"{h}.{b64({**CLAIMS, 'sub': 'admin'})}.{s}",
        lambda h, p, s: f"{b64({**HEADER, 'alg': 'none'})}.{p}.",
        lambda h, p, s: f"{b64({**HEADER, 'kid': 7})}.{p}.{s}",
        lambda h, p, s: f"{b64([])}.{p}.{s}", lambda h, p, s: f"{h}.{b64(b'{')}.{s}", lambda h, p, s: f"{h}.A.{s}",
        lambda h, p, s: f"{h}.{p}.{s}".replace("e", "é", 1), lambda h, p, s: "a" * (MAX_TOKEN_BYTES + 1),
        lambda h, p, s: f"{b64(TWO_ALGORITHMS)}.{p}.{s}",
        lambda h, p, s: "", lambda h, p, s: "..", lambda h, p, s: f"{h}.{p}.é",
    ],
)  # fmt: skip
def test_mangled_tokens(mangle: Callable[[str, str, str], str]) -> None:
    """A token with any change is rejected."""
    _, verifier = pair(Time())
    header, payload, signature = encode(HEADER, CLAIMS).split(".")
    with pytest.raises(InvalidTokenError):
        verifier.verify(mangle(header, payload, signature))


@given(st.text() | st.text(alphabet="ab.-_=").map(lambda text: f"a.{text}.b"))
def test_any_text_is_refused_alike(text: str) -> None:
    """No text whatever makes the verifier fail in another way."""
    _, verifier = pair(Time())
    with pytest.raises(InvalidTokenError):
        verifier.verify(text)


def test_tenants() -> None:
    """With a tenant claim, a token without one is rejected, and the principal has the tenant."""
    issuer, verifier = pair(Time(), tenant_claim="org")
    assert verifier.verify(issuer.issue("alice", [], tenant_id="acme")).tenant_id == "acme"
    for wrong in (None, "", 7, "x" * 256):
        claims = {**CLAIMS} if wrong is None else {**CLAIMS, "org": wrong}
        with pytest.raises(InvalidTokenError):
            verifier.verify(encode(HEADER, claims))


KEYS: dict[str, Key] = {
    "RS256": RSAKey.generate_key(2048, {"kid": "RS256"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "ES256"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "EdDSA"}),
    "HS256": OctKey.generate_key(256, {"kid": "HS256"}),
}


def write_keys(path: Path, *algorithms: str) -> Path:
    """A JWK Set file."""
    path.write_text(json.dumps({"keys": [KEYS[name].as_dict(private=True) for name in algorithms]}))
    return path


@pytest.mark.parametrize("algorithm", sorted(KEYS))
def test_each_algorithm(tmp_path: Path, algorithm: str) -> None:
    """Each kind of key signs and verifies; a newer key signs while the older one still verifies."""
    path = tmp_path / "keys.json"
    settings = Settings(keys_file=write_keys(path, algorithm))
    old = TokenIssuer(load_keys(settings), settings).issue("alice", [])
    other = next(name for name in KEYS if name != algorithm)
    write_keys(path, algorithm, other)
    keys = load_keys(settings)
    assert keys.newest.kid == other
    verifier = TokenVerifier(keys, settings)
    new = TokenIssuer(keys, settings).issue("bob", [])
    assert [verifier.verify(token).subject for token in (old, new)] == ["alice", "bob"]
    with pytest.raises(InvalidTokenError):
        TokenVerifier(read_keys_file(write_keys(path, other)), settings).verify(old)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"keys":[]}', '{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}', '{"keys":[{"kty":"nonsense"}]}',
        '{"keys":[{"kty":"oct","k":"' + "A" * 43 + '","use":"enc"}]}',
        '{"keys":[{"kty":"oct","k":"' + "A" * 43 + '","alg":"none"}]}',
        json.dumps({"keys": [KEYS["RS256"].as_dict(private=False)]}),
    ],
)  # fmt: skip
def test_unusable_keys_files(tmp_path: Path, content: str) -> None:
    """A keys file that cannot be used is named, with the mend."""
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(
        ConfigurationError,
        match=r"PROJKIT_KEYS_FILE: .*; move it away and create a new one with: projkit keys new --file .*keys.json$",
    ):
        load_keys(Settings(keys_file=path))


def test_keys_of_other_curves(tmp_path: Path) -> None:
    """Ed25519 is the only accepted OKP key."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [OKPKey.generate_key("Ed448").as_dict(private=True)]}))
    with pytest.raises(ConfigurationError, match="Ed25519"):
        load_keys(Settings(keys_file=path))


def test_missing_keys_file(tmp_path: Path) -> None:
    """The error about a missing keys file contains its path."""
    with pytest.raises(ConfigurationError, match="PROJKIT_KEYS_FILE: cannot read"):
        load_keys(Settings(keys_file=tmp_path / "none.json"))


def test_the_development_key_is_made_once(tmp_path: Path) -> None:
    """Without SECRET and KEYS_FILE, a key is created next to the database, readable by its owner only, and
    reused.
    """
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'x.db'}")
    first = load_keys(settings)
    path = tmp_path / "projkit-keys.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_keys(settings).newest.key.as_dict(private=True) == first.newest.key.as_dict(private=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_directory_that_takes_no_key(tmp_path: Path) -> None:
    """If no key can be written, the error names the setting."""
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'none' / 'x.db'}")
    with pytest.raises(ConfigurationError, match="PROJKIT_SECRET is not set"):
        load_keys(settings)


def test_derived_secrets_differ() -> None:
    """Each purpose has its own secret, the same one each time."""
    keys: KeyList = load_keys(Settings(secret=SECRET))
    assert keys.secrets("cursor") == load_keys(Settings(secret=SECRET)).secrets("cursor")
    found = {secret for label in ("a", "b", "") for secret in keys.secrets(label)}
    assert len(found | {SECRET.encode()}) == 4


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("value", "code", "challenge"),
    [
        (None, "missing_credentials", 'Bearer realm="projkit"'),
        (b"", "invalid_token", 'Bearer realm="projkit", error="invalid_token"'),
        (b"Bearer", "invalid_token", 'Bearer realm="projkit", error="invalid_token"'),
        (b"Bearer x.y.z", "invalid_token", 'Bearer realm="projkit", error="invalid_token"'),
        (b"Basic YTpi", "invalid_token", 'Bearer realm="projkit", error="invalid_token"'),
        (b"Bearer \xff\xfe", "invalid_token", 'Bearer realm="projkit", error="invalid_token"'),
    ],
)
async def test_401_over_http(open_client: OpenClient, value: bytes | None, code: str, challenge: str) -> None:
    """Without valid credentials, the response is 401 with RFC 6750's challenge and no reason."""
    async with open_client(None) as client:
        headers = [] if value is None else [(b"Authorization", value)]
        answer = await client.get(URL, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer.headers["www-authenticate"] == challenge


@pytest.mark.anyio
async def test_two_credentials_are_ambiguous(client: Client) -> None:
    """Two Authorization headers are rejected, even if both are valid."""
    value = client.headers["authorization"].encode()
    answer = await client.get(URL, headers=[(b"Authorization", value), (b"Authorization", value)])
    assert (answer.status_code, answer.json()["code"]) == (401, "ambiguous_credentials")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("scopes", "read", "write"),
    [((), 403, 403), (("projects:read",), 200, 403), (("projects:write",), 403, 201), (("admin",), 200, 201)],
)
async def test_scopes(open_client: OpenClient, scopes: tuple[str, ...], read: int, write: int) -> None:
    """Each route requires its scope; admin has all scopes."""
    async with open_client(None) as client:
        client.headers["Authorization"] = f"bearer {token_for(client.kit_settings, 'alice', scopes)}"
        answers = [await client.get(URL), await client.post(URL, json={"name": "A"})]
        assert [answer.status_code for answer in answers] == [read, write]
        for answer in answers:
            if answer.status_code == 403:
                assert answer.json()["code"] == "insufficient_scope"
                assert 'error="insufficient_scope", scope="projects:' in answer.headers["www-authenticate"]
