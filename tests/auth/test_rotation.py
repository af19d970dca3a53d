"""Keys of a running kit: they are added, retired and expire, and no token that was seen before outlives its own."""

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from joserfc.jws import JWSRegistry

from projkit import ProjKit, Settings
from projkit.auth import jws
from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenVerifier
from projkit.errors import InvalidTokenError
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, cookie, refuses
from tests.auth.conftest import OpenKit
from tests.auth.users import PROJECTS, auth_services

pytestmark = pytest.mark.anyio

WITHIN_SECONDS: Final = 10.0  # the promise is half a second


@pytest.fixture
def any_database_url(sqlite_url: str) -> str:
    """The database makes no difference to keys."""
    return sqlite_url


async def whoami(kit: ProjKit, token: str) -> Answer:
    """Return the response to a request with the token."""
    return await ask(kit, "GET", "/api/v1/auth/session", [bearer(token)])


async def before_long(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something holds, and fails where it never does."""
    until = time.monotonic() + WITHIN_SECONDS
    while not await holds():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


async def test_a_retired_key(open_kit: OpenKit, tmp_path: Path) -> None:
    """A token that was just verified is rejected once its key is removed from the file; others stay valid."""
    path = forge.write_keys(tmp_path / "keys.json", forge.private("ES256"), forge.private("EdDSA"))
    async with open_kit(secret=None, keys_file=path) as kit:
        old, new = forge.token(kid="ES256"), forge.token(kid="EdDSA")
        for token in (old, old, new, new):
            assert (await whoami(kit, token)).status == 200
        forge.write_keys(path, forge.private("EdDSA"))

        async def is_refused() -> bool:
            return (await whoami(kit, old)).status == 401

        await before_long(is_refused)
        refuses(await whoami(kit, old))
        refuses(await whoami(kit, forge.token(kid="ES256")))
        assert (await whoami(kit, new)).status == 200


async def test_an_added_key(open_kit: OpenKit, tmp_path: Path) -> None:
    """An added key signs from then on, and the older key's signatures stay valid."""
    path = forge.write_keys(tmp_path / "keys.json", forge.private("HS256"))
    async with open_kit(secret=None, keys_file=path, legacy_secret=forge.LEGACY_SECRET) as kit:
        old, new = forge.token(kid="HS256"), forge.token(kid="EdDSA")
        refuses(await whoami(kit, new))
        forge.write_keys(path, forge.private("HS256"), forge.private("EdDSA"))

        async def is_taken() -> bool:
            return (await whoami(kit, new)).status == 200

        await before_long(is_taken)
        assert (await whoami(kit, old)).status == 200
        issued = auth_services(kit).issuer.issue("alice", ())
        assert jws.read(issued).kid == "EdDSA"


async def test_a_key_that_comes_back(open_kit: OpenKit, tmp_path: Path) -> None:
    """Another key with the same kid does not verify the first one's signatures."""
    path = forge.write_keys(tmp_path / "keys.json", forge.private("EdDSA"))
    async with open_kit(secret=None, keys_file=path) as kit:
        old = forge.token()
        assert (await whoami(kit, old)).status == 200
        forge.write_keys(path, {**forge.private("EdDSA-other"), "kid": "EdDSA"})
        new = forge.token(forge.header(), kid="EdDSA-other")

        async def is_taken() -> bool:
            return (await whoami(kit, new)).status == 200

        await before_long(is_taken)
        refuses(await whoami(kit, old))


@pytest.mark.parametrize("content", [None, "{", '{"keys":[{"kty":"oct","k":"AA"}]}'])
async def test_a_broken_file(
    open_kit: OpenKit, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    """An unusable file leaves the keys unchanged and is logged once."""
    path = forge.write_keys(tmp_path / "keys.json", forge.private("EdDSA"))
    async with open_kit(secret=None, keys_file=path) as kit:
        token = forge.token()
        assert (await whoami(kit, token)).status == 200
        if content is None:
            path.unlink()
        else:
            path.write_text(content)

        async def is_told() -> bool:
            assert (await whoami(kit, token)).status == 200
            return any(record.levelno == logging.ERROR for record in caplog.records)

        await before_long(is_told)
        await asyncio.sleep(0.6)
        await is_told()
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


async def test_a_key_that_expires(open_kit: OpenKit, tmp_path: Path) -> None:
    """After a key's ``exp`` it verifies and signs nothing, and the secrets derived from it are void."""
    ends = int(time.time()) + 2
    path = forge.write_keys(tmp_path / "keys.json", forge.private("HS256"), forge.private("EdDSA", exp=ends))
    async with open_kit(secret=None, keys_file=path) as kit:
        auth = auth_services(kit)
        token = forge.token(payload=forge.claims(exp=ends + 900))
        issued = auth.issuer.issue("alice", ("projects:read", "projects:write"))
        value = auth.csrf.issue("subject:0::alice")
        for each in (token, issued):
            assert (await whoami(kit, each)).status == 200
        still_good = forge.token(kid="HS256")
        headers = [
            cookie(auth_token=still_good, csrf_token=value),
            ("x-csrf-token", value),
            ("sec-fetch-site", "none"),
        ]
        assert (await ask(kit, "POST", PROJECTS, headers, json={"name": "A"})).status == 201
        await asyncio.sleep(max(0.0, ends - time.time()) + 0.05)
        for each in (token, issued):
            refuses(await whoami(kit, each))

        async def is_void() -> bool:
            return (await ask(kit, "POST", PROJECTS, headers, json={"name": "A"})).code == "csrf_failed"

        await before_long(is_void)
        again = auth.issuer.issue("alice", ())
        assert (await whoami(kit, again)).status == 200


def test_a_cached_token_ends_with_its_key(tmp_path: Path) -> None:
    """A cached token expires with whichever ends first: the token or its key."""
    now = time.time()
    path = forge.write_keys(
        tmp_path / "keys.json", forge.private("HS256", exp=int(now) + 60), forge.private("EdDSA")
    )
    settings = Settings(keys_file=path)
    moment = now
    verifier = TokenVerifier(load_keys(settings), settings, now=lambda: moment)
    lasting = forge.token(kid="HS256")
    verified = verifier.verify(lasting)
    moment = now + 58
    assert verifier.verify(lasting) is verified
    moment = now + 60
    assert verifier.verify(lasting) is not verified
    moment = now
    short = forge.token(payload=forge.claims(exp=int(now) + 5))
    verifier.verify(short)
    moment = now + 40
    with pytest.raises(InvalidTokenError):
        verifier.verify(short)


async def test_a_revoked_token_signed_otherwise(open_kit: OpenKit, tmp_path: Path) -> None:
    """A sessionless token that was logged out is rejected in every form whose signature is valid."""
    path = forge.write_keys(tmp_path / "keys.json", *(forge.private(name) for name in forge.ALGORITHMS))
    async with open_kit(secret=None, keys_file=path) as kit:
        for kid in forge.ALGORITHMS:
            token = forge.token(kid=kid)
            assert (await whoami(kit, token)).status == 200
            assert (await ask(kit, "POST", "/api/v1/auth/logout", [bearer(token)])).status == 204
            refuses(await whoami(kit, token))
            parts = token.rpartition(".")[0]
            for signature in other_signatures(kid, parts, token):
                refuses(await whoami(kit, f"{parts}.{forge.b64(signature)}"))


def other_signatures(kid: str, parts: str, token: str) -> list[bytes]:
    """Return other valid signatures of the same token: those that anyone can derive, and a new one by the
    key.
    """
    raw = base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")
    signatures = [forge.signature(parts, kid)]
    if kid == "ES256":
        order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        mirrored = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
        assert JWSRegistry.algorithms["ES256"].verify(parts.encode(), mirrored, forge.key(kid))
        signatures.append(mirrored)
    if kid == "EdDSA":
        order = 2**252 + 27742317777372353535851937790883648493
        signatures.append(raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little"))
    return signatures


async def test_published_keys(shared_kit: ProjKit) -> None:
    """Only the public parts of keys are published, and no expired keys."""
    for path in ("/api/v1/auth/jwks", "/.well-known/jwks.json"):
        answer = await ask(shared_kit, "GET", path)
        assert answer.status == 200
        keys: list[dict[str, Any]] = answer.json()["keys"]
        assert [key["kid"] for key in keys] == ["RS256-public", "RS256", "ES256", "EdDSA"]
        for key in keys:
            assert set(key) <= {"kty", "kid", "alg", "use", "n", "e", "crv", "x", "y"}
        for kid in forge.ALGORITHMS:
            secret = forge.key(kid).as_dict(private=True)
            for name in ("d", "p", "q", "dp", "dq", "qi", "k"):
                if name in secret:
                    assert str(secret[name]).encode() not in answer.body
