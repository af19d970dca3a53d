"""The gate before the library, and the one call into it.

What a token looks like is checked here, before joserfc sees it: its size and alphabet, strict JSON without duplicate
names, and a header of ``alg``, ``typ`` and ``kid`` alone, so that ``jwk``, ``jku``, ``x5u``, ``x5c``, ``crit``,
``b64`` and ``zip`` are refused without a thought. What passes is verified by joserfc with one key and the one
algorithm that the key is for.
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
# What others may sign with: asymmetric algorithms alone, so that no public key is ever taken for a secret.
PROVIDER_ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
MAX_TIME: Final = 253_402_300_799  # the last second of the year 9999
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_HEADER_NAMES: Final = frozenset({"alg", "typ", "kid"})


class _OneAlgorithm(JWSRegistry):
    """Knows one algorithm, and says nothing of EdDSA's newer names (RFC 9864): the key tells the curve already."""

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
    """A token whose form is right; of its content nothing is known to be true."""

    token: str
    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def algorithm(self) -> str:
        """The ``alg`` that the header claims."""
        return str(self.header["alg"])

    @property
    def kid(self) -> str | None:
        """The ``kid`` that the header claims."""
        return self.header.get("kid")


def read(token: str, *, limit: int = MAX_TOKEN_BYTES) -> Unverified:
    """The token's header and claims; ``limit`` is in bytes.

    Raises:
        InvalidTokenError: it does not even look like a token.
    """
    header, payload = take_apart(token, limit=limit)
    try:
        return Unverified(token, header, _object(payload))
    except ValueError as error:
        raise InvalidTokenError from error


def take_apart(token: str, *, limit: int = MAX_TOKEN_BYTES) -> tuple[dict[str, Any], bytes]:
    """The header of a compact JWS (RFC 7515 §7.1), and its payload as it is.

    Raises:
        InvalidTokenError: its form is wrong, or its header has other members than ours.
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
    """Holds the signature against the key.

    Raises:
        InvalidTokenError: the algorithm is another one, or the signature is wrong.
    """
    if unverified.algorithm != algorithm:
        raise InvalidTokenError
    try:
        jws.deserialize_compact(unverified.token, key, registry=REGISTRIES[algorithm])
    except (JoseError, ValueError, TypeError) as error:
        raise InvalidTokenError from error


def time_claim(claims: dict[str, Any], name: str) -> int | None:
    """A claim that is a time in whole seconds; None where there is none.

    Raises:
        InvalidTokenError: it is something else, or out of range.
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
        raise ValueError("not an object")  # noqa: TRY004  # one kind of error for all that is wrong
    return decoded
