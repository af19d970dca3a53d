"""The JWK Set of a provider: public keys, each for one algorithm.

Unusable keys are ignored (RFC 7517 §5), since providers publish keys for other purposes too.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

from projkit.auth.jws import Unverified

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {
    "P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA", "Ed25519"),
}  # fmt: skip
_MINIMUM_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A public key with its one algorithm; ``kid`` is None if the provider gives none."""

    kid: str | None
    algorithm: str
    key: Key


class ProviderKeys:
    """The current keys of a provider."""

    def __init__(self, keys: Iterable[ProviderKey]) -> None:
        self.keys = tuple(keys)
        self._by_name = {(key.kid, key.algorithm): key for key in reversed(self.keys)}

    def has(self, key: ProviderKey) -> bool:
        """Return whether ``key`` is one of these objects, and not one of an earlier version of the set."""
        return any(each is key for each in self.keys)

    def find(self, unverified: Unverified) -> ProviderKey | None:
        """Return the key that a token names.

        If the token names no key, the set must contain exactly one, which is used (OpenID Connect Core 1.0 §10.1).
        """
        if unverified.kid is not None:
            return self._by_name.get((unverified.kid, unverified.algorithm))
        if len(self.keys) == 1 and self.keys[0].algorithm == unverified.algorithm:
            return self.keys[0]
        return None


def read_keys(document: dict[str, Any]) -> ProviderKeys:
    """Return the usable keys of a JWK Set.

    Raises:
        ValueError: the document is not a JWK Set.
    """
    members = document.get("keys")
    if not isinstance(members, list):
        raise ValueError("keys is not a list")  # noqa: TRY004  # one exception type for every malformed set
    keys = (_read_key(each) for each in members if isinstance(each, dict))
    return ProviderKeys(key for key in keys if key is not None)


def _read_key(data: dict[str, Any]) -> ProviderKey | None:
    if data.get("use", "sig") != "sig" or not _may_verify(data.get("key_ops")):
        return None
    # Anyone could sign with a published secret or private key.
    if data.get("kty") == "oct" or "d" in data:
        return None
    kid = data.get("kid")
    if kid is not None and not isinstance(kid, str):
        return None
    try:
        with warnings.catch_warnings():  # what joserfc only warns about is rejected below
            warnings.simplefilter("ignore", SecurityWarning)
            key = import_key(data)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    algorithms = _algorithms(key)
    algorithm = data.get("alg", algorithms[0] if algorithms else None)
    return ProviderKey(kid, algorithm, key) if algorithm in algorithms else None


def _may_verify(operations: object) -> bool:
    return operations is None or (isinstance(operations, list) and "verify" in operations)


def _algorithms(key: Key) -> tuple[str, ...]:
    """Return the algorithms that fit the key; the first one is the default if it has no ``alg``."""
    if isinstance(key, RSAKey):
        return _RSA if key.raw_value.key_size >= _MINIMUM_RSA_BITS else ()
    if isinstance(key, (ECKey, OKPKey)):
        return _CURVES.get(key.curve_name, ())
    return ()
