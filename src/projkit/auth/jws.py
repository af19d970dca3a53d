"""Parsing of compact JWS (RFC 7515), and signature verification with joserfc.

The format is checked here, before joserfc sees the token: size, alphabet, strict JSON without duplicate names, and a
header of ``alg``, ``typ`` and ``kid`` only, which rejects ``jwk``, ``jku``, ``x5u``, ``x5c``, ``crit``, ``b64`` and
``zip``. joserfc then verifies the signature with one key and the one algorithm of that key.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import Key
from joserfc.jws import JWSRegistry

from projkit.auth.keys_file import ALGORITHMS
from projkit.errors import InvalidTokenError
from projkit.http import strict_json
from projkit.signing import decode

MAX_TOKEN_BYTES: Final = 4096
# Asymmetric algorithms only, so a public key can never be used as an HMAC secret (RFC 8725 §2.1).
PROVIDER_ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
MAX_TIME: Final = 253_402_300_799  # the last second of the year 9999
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_HEADER_NAMES: Final = frozenset({"alg", "typ", "kid"})


class _OneAlgorithm(JWSRegistry):
    """A registry of one algorithm, without joserfc's warning about EdDSA (RFC 9864): the key determines the curve."""

    def __init__(self, name: str) -> None:
        super().__init__(algorithms=[name])
        self._name = name

    def get_alg(self, name: str) -> Any:
        if name != self._name:
            raise UnsupportedAlgorithmError(f"{name} is not {self._name}")
        return self.algorithms[name]


REGISTRIES: Final = {name: _OneAlgorithm(name) for name in (*ALGORITHMS, *PROVIDER_ALGORITHMS)}


@dataclass(frozen=True, slots=True)
class Unverified:
    """A well-formed token whose signature has not been verified."""

    token: str
    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def algorithm(self) -> str:
        """The ``alg`` in the header."""
        return str(self.header["alg"])

    @property
    def kid(self) -> str | None:
        """The ``kid`` in the header."""
        return self.header.get("kid")


def read(token: str, *, limit: int = MAX_TOKEN_BYTES) -> Unverified:
    """Parse a token of at most ``limit`` bytes.

    Raises:
        InvalidTokenError: the token is malformed.
    """
    header, payload = split(token, limit=limit)
    try:
        return Unverified(token, header, _object(payload))
    except ValueError as error:
        raise InvalidTokenError from error


def split(token: str, *, limit: int = MAX_TOKEN_BYTES) -> tuple[dict[str, Any], bytes]:
    """Return the header and the raw payload of a compact JWS (RFC 7515 §7.1).

    Raises:
        InvalidTokenError: it is malformed, or its header has members other than ``alg``, ``typ`` and ``kid``.
    """
    if len(token) > limit or not _FORM.fullmatch(token):
        raise InvalidTokenError
    encoded_header, encoded_payload, signature = token.split(".")
    try:
        header, payload = _object(decode(encoded_header)), decode(encoded_payload)
        decode(signature)
    except ValueError as error:
        raise InvalidTokenError from error
    if not header.keys() <= _HEADER_NAMES or "alg" not in header:
        raise InvalidTokenError
    if not all(isinstance(value, str) for value in header.values()):
        raise InvalidTokenError
    return header, payload


def verify(unverified: Unverified, key: Key, algorithm: str) -> None:
    """Verify the signature with ``key``.

    Raises:
        InvalidTokenError: the token has another algorithm, or the signature is wrong.
    """
    if unverified.algorithm != algorithm:
        raise InvalidTokenError
    try:
        jws.deserialize_compact(unverified.token, key, registry=REGISTRIES[algorithm])
    except (JoseError, ValueError, TypeError) as error:
        raise InvalidTokenError from error


def time_claim(claims: dict[str, Any], name: str) -> int | None:
    """Return a claim that is a time in whole seconds (RFC 7519 §2), or None if it is absent.

    Raises:
        InvalidTokenError: the claim is not an integer, or is out of range.
    """
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TIME:
        raise InvalidTokenError
    return value


def _object(raw: bytes) -> dict[str, Any]:
    decoded = strict_json.loads(raw)
    if not isinstance(decoded, dict):
        raise ValueError("not an object")  # noqa: TRY004  # one exception type for every malformed part
    return decoded
