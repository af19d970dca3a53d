"""The keys: a list, newest last. The last one signs, all of them verify."""

import base64
import json
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key

from projkit.errors import ConfigurationError
from projkit.settings import MINIMUM_SECRET_BYTES, Settings

DEVELOPMENT_KEYS: Final = "projkit-keys.json"
_NEW_KEYS: Final = "remove the file and run: projkit token --subject you"
_ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key and the one algorithm that it is for."""

    kid: str
    algorithm: str
    key: Key


class KeyList:
    """The keys of a kit, and the secrets derived from them."""

    def __init__(self, keys: Sequence[SigningKey], root_secret: bytes) -> None:
        self.keys = tuple(keys)
        self._by_kid = {key.kid: key for key in self.keys}
        self._root_secret = root_secret

    @property
    def newest(self) -> SigningKey:
        """The key that signs."""
        return self.keys[-1]

    def get(self, kid: str) -> SigningKey | None:
        """The key named ``kid``, if it is one of ours."""
        return self._by_kid.get(kid)

    def derive(self, label: str) -> bytes:
        """A 32-byte secret for one purpose (HKDF, RFC 5869): none of them tells anything about another."""
        return HKDF(SHA256(), 32, salt=None, info=f"projkit/{label}".encode()).derive(self._root_secret)


def load_keys(settings: Settings) -> KeyList:
    """The keys that the settings name; in development made once, in ``projkit-keys.json``.

    Raises:
        ConfigurationError: the file cannot be read or holds no usable key.
    """
    if settings.secret is not None:
        secret = settings.secret.get_secret_value().encode()
        return KeyList([SigningKey("secret", "HS256", OctKey.import_key(secret))], secret)
    path = settings.keys_file
    if path is None:
        path = development_keys_path(settings)
        make_development_keys(path)
    return read_keys_file(path)


def development_keys_path(settings: Settings) -> Path:
    """Where a development key is kept: beside the embedded database, else in the working directory."""
    return (settings.sqlite_path.parent if settings.embedded else Path()) / DEVELOPMENT_KEYS


def make_development_keys(path: Path) -> None:
    """Makes the file with one HS256 key and mode 0600, unless it is there; whoever comes second uses the first's."""
    if path.exists():
        return
    key = {
        "kty": "oct",
        "kid": f"dev-{secrets.token_hex(4)}",
        "alg": "HS256",
        "use": "sig",
        "k": base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode(),
    }
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".projkit-keys-")  # mode 0600
    except OSError as error:
        raise ConfigurationError(
            f"PROJKIT_SECRET is not set and no key can be kept in {path.parent}: {error.strerror}; "
            "set PROJKIT_SECRET or make the directory writable"
        ) from error
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump({"keys": [key]}, file, indent=2)
        try:
            os.link(temporary, path)  # never replaces what another process has just made
        except FileExistsError:
            return
    finally:
        Path(temporary).unlink()


def read_keys_file(path: Path) -> KeyList:
    """The JWK Set (RFC 7517) in ``path``.

    Raises:
        ConfigurationError: it cannot be read or holds no usable key.
    """
    try:
        document = json.loads(path.read_text())
        keys = document["keys"]
        root = _root_secret(keys)
        return KeyList([_signing_key(key) for key in keys], root)
    except OSError as error:
        raise ConfigurationError(f"PROJKIT_KEYS_FILE: cannot read {path}: {error.strerror}; {_NEW_KEYS}") from error
    except (ValueError, KeyError, TypeError, IndexError, JoseError) as error:
        raise ConfigurationError(
            f"PROJKIT_KEYS_FILE: {path} is not a JWK Set with at least one usable private or secret key ({error}); "
            f"{_NEW_KEYS}"
        ) from error


def _signing_key(data: dict[str, Any]) -> SigningKey:
    key = import_key(data)
    algorithm = data.get("alg") or _default_algorithm(key)
    if algorithm not in _ALGORITHMS:
        raise ValueError(f"alg {algorithm} is not one of {', '.join(_ALGORITHMS)}")
    if data.get("use", "sig") != "sig":
        raise ValueError("use must be sig")
    if isinstance(key, OctKey) and len(key.raw_value) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"a secret key must have at least {MINIMUM_SECRET_BYTES} bytes")
    return SigningKey(str(data.get("kid") or key.thumbprint()), algorithm, key)


def _default_algorithm(key: Key) -> str:
    for kind, algorithm in ((OctKey, "HS256"), (RSAKey, "RS256"), (ECKey, "ES256"), (OKPKey, "EdDSA")):
        if isinstance(key, kind):
            return algorithm
    raise ValueError(f"a key of type {key.key_type} cannot sign")


def _root_secret(keys: Sequence[dict[str, Any]]) -> bytes:
    # The oldest key's private part, so that cursors outlive the adding of newer keys.
    private = keys[0].get("k") or keys[0].get("d")
    if not isinstance(private, str):
        raise TypeError("the first key has no secret or private part")
    return private.encode()
