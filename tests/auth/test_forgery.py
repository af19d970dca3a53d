"""Tokens forged from public information: all of them are rejected in the same way."""

import base64
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from projkit import ProjKit
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, cookie, refuses

pytestmark = pytest.mark.anyio

ASYMMETRIC: Final = ("RS256", "ES256", "EdDSA", "RS256-public")


async def whoami(kit: ProjKit, token: str) -> Answer:
    """Return the response to a request with the token."""
    return await ask(kit, "GET", "/api/v1/auth/session", [bearer(token)])


@pytest.mark.parametrize("kid", [*forge.ALGORITHMS, "RS256-public"])
async def test_good_tokens(shared_kit: ProjKit, kid: str) -> None:
    """The forged tokens of these tests are accepted with a key of KEYS_FILE, and rejected with an expired
    one.
    """
    answer = await whoami(shared_kit, forge.token(kid=kid))
    assert (answer.status, answer.json()["subject"]) == (200, "alice")
    assert answer.json()["token_format"] == "enhanced"
    refuses(await whoami(shared_kit, forge.token(kid="EdDSA-expired")))
    refuses(await whoami(shared_kit, forge.token(kid=f"{kid.partition('-')[0]}-unknown")))


# --- the public key taken for a secret


def encodings(kid: str) -> Iterator[bytes]:
    """Every form in which a public key is commonly written."""
    key = forge.key(kid)
    raw: Any = key.raw_value
    public = raw.public_key()
    formats = [(encoding, PublicFormat.SubjectPublicKeyInfo) for encoding in (Encoding.PEM, Encoding.DER)]
    if isinstance(public, RSAPublicKey):
        formats += [(Encoding.PEM, PublicFormat.PKCS1), (Encoding.DER, PublicFormat.PKCS1)]
        modulus = public.public_numbers().n.to_bytes(public.key_size // 8, "big")
        yield from (modulus, b"\0" + modulus, str(public.public_numbers().n).encode(), modulus.hex().encode())
    elif isinstance(public, Ed25519PublicKey):
        formats += [(Encoding.Raw, PublicFormat.Raw), (Encoding.OpenSSH, PublicFormat.OpenSSH)]
    else:
        formats += [
            (Encoding.X962, PublicFormat.UncompressedPoint), (Encoding.X962, PublicFormat.CompressedPoint),
            (Encoding.OpenSSH, PublicFormat.OpenSSH),
        ]  # fmt: skip
        numbers = public.public_numbers()
        x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
        yield from (x, y, x + y)
    for encoding, form in formats:
        yield public.public_bytes(encoding, form)
    published = {**key.as_dict(private=False), "kid": kid, "alg": kid.partition("-")[0], "use": "sig"}
    for jwk in (published, key.as_dict(private=False), {name: published[name] for name in sorted(published)}):
        for separators in ((",", ":"), (", ", ": ")):
            yield json.dumps(jwk, separators=separators).encode()
            yield json.dumps({"keys": [jwk]}, separators=separators).encode()
    yield from (str(jwk[name]).encode() for jwk in [published] for name in ("n", "x", "y") if name in jwk)
    yield key.thumbprint().encode()
    yield kid.encode()


def as_secrets(kid: str) -> list[bytes]:
    """Each encoding as it is, with and without a newline at its end, in base64, and padded as HMAC pads."""
    secrets = []
    for encoded in encodings(kid):
        stripped = encoded.strip(b"\n")
        secrets += [encoded, stripped, stripped + b"\n", stripped + b"\r\n", stripped.replace(b"\n", b"\r\n")]
        secrets += [base64.b64encode(stripped), base64.urlsafe_b64encode(stripped).rstrip(b"=")]
        secrets += [base64.encodebytes(stripped), stripped.ljust(64, b"\0")]
    return [*dict.fromkeys([*secrets, b""])]


@pytest.mark.parametrize("kid", ASYMMETRIC)
async def test_a_public_key_is_no_secret(shared_kit: ProjKit, kid: str) -> None:
    """An HMAC whose secret is a public key, in any encoding, is rejected for that key, another key, and none."""
    secrets = as_secrets(kid)
    assert len(secrets) > 60
    legacy = {"sub": "alice", "exp": forge.claims()["exp"]}
    for secret in secrets:
        for head in (forge.header(kid, alg="HS256"), forge.header("HS256"), forge.header(kid)):
            refuses(await whoami(shared_kit, forge.mac(head, forge.claims(), secret)))
        refuses(await whoami(shared_kit, forge.mac({"alg": "HS256", "typ": "JWT"}, legacy, secret)))


# --- algorithms

NONE: Final = [
    "".join(letters) for letters in itertools.product(*(f"{each}{each.upper()}" for each in "none"))
]


@pytest.mark.parametrize(
    "alg", [*NONE, "", " none", "none ", "no\0ne", "\uff4e\uff4f\uff4e\uff45", "null", "None\n"]
)
async def test_none(shared_kit: ProjKit, alg: str) -> None:
    """``none`` is rejected in any spelling and with any signature part."""
    for typ in ("at+jwt", "JWT", None):
        head = {"alg": alg, "kid": forge.NEWEST} | ({} if typ is None else {"typ": typ})
        parts = f"{forge.b64(head)}.{forge.b64(forge.claims())}"
        rest = forge.token().rpartition(".")[2]
        for sent in (
            f"{parts}.",
            parts,
            f"{parts}.{rest}",
            f"{parts}.AA",
            f"{parts}.{forge.b64(b'')}",
            f"{parts}.=",
        ):
            refuses(await whoami(shared_kit, sent))
        refuses(await ask(shared_kit, "GET", "/api/v1/auth/session", [cookie(access_token=f"{parts}.")]))


OTHER_ALGORITHMS: Final = (
    "HS384", "HS512", "RS384", "RS512", "PS256", "PS384", "PS512", "ES384", "ES512", "ES256K", "Ed25519", "Ed448",
    "EdDSA ", "hs256", "RSA-OAEP", "dir", "A128KW", "ECDH-ES", "HS256,none",
)  # fmt: skip


@pytest.mark.parametrize("kid", forge.ALGORITHMS)
async def test_another_algorithm(shared_kit: ProjKit, kid: str) -> None:
    """A key has one algorithm: a header with another one is rejected, even if the key signed it."""
    for alg in (*forge.ALGORITHMS, *OTHER_ALGORITHMS):
        if alg != kid:
            refuses(await whoami(shared_kit, forge.token(forge.header(kid, alg=alg), kid=kid)))


async def test_good_signatures_by_another_algorithm(shared_kit: ProjKit) -> None:
    """A signature by an algorithm other than the key's is rejected, whichever one the header names."""
    for kid, algorithms in {
        "RS256": ("RS384", "RS512", "PS256", "PS512"),
        "HS256": ("HS384", "HS512"),
    }.items():
        for algorithm, named in itertools.product(algorithms, (True, False)):
            head = forge.header(kid, alg=algorithm if named else kid)
            parts = f"{forge.b64(head)}.{forge.b64(forge.claims())}"
            signed = forge.b64(forge.signature(parts, kid, algorithm=algorithm))
            refuses(await whoami(shared_kit, f"{parts}.{signed}"))


@pytest.mark.parametrize(
    ("signer", "named"), [*itertools.permutations([*forge.ALGORITHMS, "RS256-public"], 2)]
)
async def test_one_key_for_another(shared_kit: ProjKit, signer: str, named: str) -> None:
    """A token is verified by the key of its kid only."""
    heads = [forge.header(named), forge.header(signer, kid=named), forge.header(named, kid=signer)]
    for head in heads:
        if head != forge.header(signer):  # two keys of one algorithm: the last one is the signer's own
            refuses(await whoami(shared_kit, forge.token(head, kid=signer)))


async def test_formats_have_keys_of_their_own(shared_kit: ProjKit) -> None:
    """Neither profile accepts signatures of the other's keys."""
    secret = forge.LEGACY_SECRET.encode()
    assert (await whoami(shared_kit, forge.legacy())).status == 200
    for kid in (*forge.ALGORITHMS, "secret", "legacy"):
        refuses(await whoami(shared_kit, forge.mac(forge.header(kid, alg="HS256"), forge.claims(), secret)))
    for typ in ({"typ": "JWT"}, {}, {"typ": "AT+JWT"}, {"typ": "application/at+jwt"}, {"typ": "at+jwt "}):
        for kid in forge.ALGORITHMS:
            head = {"alg": kid, "kid": kid, **typ}
            refuses(await whoami(shared_kit, forge.token(head, kid=kid)))


# --- keys that the token brings along


class Canary:
    """A server that only counts its connections."""

    def __init__(self) -> None:
        self.seen = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.seen += 1
            connection.close()

    def close(self) -> None:
        """Stops listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    """A server on this machine."""
    server = Canary()
    yield server
    server.close()


async def test_addresses_of_keys(shared_kit: ProjKit, canary: Canary) -> None:
    """A key URL in a token is never fetched."""
    url = f"http://127.0.0.1:{canary.port}/keys"
    for kid, signer in itertools.product(("EdDSA", url), ("EdDSA", "EdDSA-thief")):
        for name in ("jku", "x5u", "url", "iss", "kid", "jwks_uri"):
            for value in (url, [url], url.replace("127.0.0.1", "localhost"), {"href": url}):
                head = {**forge.header("EdDSA"), "kid": kid, name: value}
                if head != forge.header("EdDSA"):
                    refuses(await whoami(shared_kit, forge.token(head, kid=signer)))
        payload = forge.claims(iss=url, jku=url)
        refuses(await whoami(shared_kit, forge.token(payload=payload, kid=signer)))
    assert canary.seen == 0
    with socket.create_connection(("127.0.0.1", canary.port)) as probe:
        probe.recv(1)  # until the canary has closed it
    assert canary.seen == 1


@pytest.mark.parametrize(
    "thief",
    [
        OctKey.generate_key(256), RSAKey.generate_key(2048), ECKey.generate_key("P-256"),
        OKPKey.generate_key("Ed25519"),
    ],
    ids=forge.ALGORITHMS,
)  # fmt: skip
async def test_embedded_keys(shared_kit: ProjKit, thief: Key) -> None:
    """A token with an embedded key is rejected, whether signed with that key or with a valid one."""
    algorithm = {"oct": "HS256", "RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[thief.key_type]
    jwk = thief.as_dict(private=thief.key_type == "oct")
    chain = [base64.b64encode(b"0\x82\x01\x00").decode()]
    extras: tuple[dict[str, Any], ...] = (
        {"jwk": jwk}, {"jwk": {**jwk, "kid": forge.NEWEST}}, {"jwk": None}, {"jwks": {"keys": [jwk]}}, {"x5c": chain},
        {"x5c": []}, {"x5t": forge.b64(b"1" * 20)}, {"x5t#S256": forge.b64(b"1" * 32)}, {"x5t": None},
    )  # fmt: skip
    for extra in extras:
        for kid in (forge.NEWEST, thief.thumbprint(), ""):
            head = {"alg": algorithm, "typ": "at+jwt", "kid": kid, **extra}
            parts = f"{forge.b64(head)}.{forge.b64(forge.claims())}"
            model = JWSRegistry.algorithms[algorithm]
            refuses(await whoami(shared_kit, f"{parts}.{forge.b64(model.sign(parts.encode(), thief))}"))
        refuses(await whoami(shared_kit, forge.token(forge.header(**extra))))


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": True}, {"crit": ["b64"], "b64": False}, {"b64": True},
        {"crit": None}, {"crit": "alg"}, {"zip": "DEF"}, {"zip": None}, {"cty": "JWT"}, {"enc": "A128GCM"}, {"epk": {}},
        {"p2c": 10**9, "p2s": "AA"}, {"exp": 0}, {"nonce": "x"}, {"ppt": "x"}, {"": ""}, {"ALG": "none"}, {"alg ": "x"},
        {"__proto__": {}},
    ],
)  # fmt: skip
async def test_other_header_members(shared_kit: ProjKit, extra: dict[str, Any]) -> None:
    """A header with a member other than ``alg``, ``typ`` and ``kid`` is rejected, validly signed or not."""
    refuses(await whoami(shared_kit, forge.token(forge.header(**extra))))
    refuses(await whoami(shared_kit, forge.legacy(head={"alg": "HS256", "typ": "JWT", **extra})))


KIDS: Final = (
    "../../../../dev/null", "/dev/null", "/proc/sys/kernel/randomize_va_space", "file:///dev/null", "..\\..\\nul",
    "' UNION SELECT 'secret", "x'; DROP TABLE projkit_users; --", "1 OR 1=1", "EdDSA' AND '1'='1", "|id", "`id`",
    "${jndi:ldap://127.0.0.1/x}", "{{7*7}}", "%s%n", "EdDSA\0", "\0", "EdDSA ", " EdDSA", "eddsa", "EDDSA", "EdDSA\n",
    "\uff25\uff44\uff24\uff33\uff21", "EdDSA\u200b", "é", "\U0001f511", "", "x" * 3_000, "x" * 1_048_576,
    "\r\nX-Injected: 1", "*", ".", "0", "$(id)", "__class__", "EdDSA-expired", "secret", "https://127.0.0.1/key",
)  # fmt: skip


@pytest.mark.parametrize("kid", KIDS, ids=[f"kid{number}" for number in range(len(KIDS))])
async def test_names_of_keys(shared_kit: ProjKit, kid: str) -> None:
    """A kid is only compared: no path, statement or spelling leads to a key."""
    for secret in (b"", b"\0", b"0", b"2\n", b"secret", kid.encode()):
        refuses(
            await whoami(shared_kit, forge.mac(forge.header(kid=kid, alg="HS256"), forge.claims(), secret))
        )
    refuses(await whoami(shared_kit, forge.token(forge.header(kid=kid))))


@pytest.mark.parametrize("kid", [None, 0, 1, True, 1.5, [], ["EdDSA"], {}, {"EdDSA": 1}], ids=repr)
async def test_names_of_keys_that_are_no_text(shared_kit: ProjKit, kid: Any) -> None:
    """A ``kid``, ``alg`` or ``typ`` that is not a string is rejected, and so is a token without ``kid`` or
    ``alg``.
    """
    for name in ("kid", "alg", "typ"):
        refuses(await whoami(shared_kit, forge.token(forge.header(**{name: kid}))))
    for name in ("kid", "alg"):
        head = {key: value for key, value in forge.header().items() if key != name}
        refuses(await whoami(shared_kit, forge.token(head)))
