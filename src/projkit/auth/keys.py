"""The keys that sign and verify tokens, newest last: the last one signs, and all that have not expired verify."""

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key

from projkit.auth.keys_file import ALGORITHMS, GENERATED, Jwk, keys_path, make_development_keys, read_jwks
from projkit.auth.roca import has_roca_fingerprint
from projkit.errors import ConfigurationError, UnavailableError
from projkit.known_secrets import FOR_TESTS, is_known
from projkit.settings import MINIMUM_SECRET_BYTES, Settings

logger: Final = logging.getLogger("projkit")

_NEW_KEYS: Final = "create a new one with: projkit keys new --file"
_CURVES: Final = {"ES256": "P-256", "EdDSA": "Ed25519"}
_MINIMUM_RSA_BITS: Final = 2048
_CHECK_PERIOD_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key with its one algorithm; ``root`` is the input of key derivation, None for a public key."""

    kid: str
    algorithm: str
    key: Key
    root: bytes | None
    expires: int | None = None

    @property
    def can_sign(self) -> bool:
        """Whether the private part is present."""
        return self.root is not None

    @property
    def has_expired(self) -> bool:
        """Whether its ``exp`` has passed."""
        return self.expires is not None and self.expires <= time.time()


class KeyList:
    """The keys of one version of the keys file, and the secrets derived from them."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self.keys = tuple(keys)
        self._by_kid = {key.kid: key for key in self.keys}
        self._derived: dict[str, tuple[tuple[SigningKey, bytes], ...]] = {}

    @property
    def newest(self) -> SigningKey:
        """The key that signs.

        Raises:
            UnavailableError: all keys that can sign have expired since they were read.
        """
        for key in reversed(self.keys):
            if key.can_sign and not key.has_expired:
                return key
        raise UnavailableError("Every signing key has expired")

    def get(self, kid: str) -> SigningKey | None:
        """Return the key ``kid``, or None if there is none or it has expired."""
        key = self._by_kid.get(kid)
        return None if key is None or key.has_expired else key

    def secrets(self, label: str) -> tuple[bytes, ...]:
        """Return a 32-byte secret for ``label`` from each key that has not expired, newest first (HKDF, RFC 5869).

        The first one signs, and all of them verify. The secrets of different labels are independent.

        Raises:
            UnavailableError: all keys have expired since they were read.
        """
        derived = self._derived.get(label)
        if derived is None:
            derived = self._derived[label] = tuple(
                (key, _derive(key.root, label)) for key in reversed(self.keys) if key.root is not None
            )
        valid = tuple(secret for key, secret in derived if not key.has_expired)
        if not valid:
            raise UnavailableError("Every signing key has expired")
        return valid

    def public(self) -> list[dict[str, Any]]:
        """Return the public keys as JWKs (RFC 7517); HMAC secrets have none."""
        return [
            {**key.key.as_dict(private=False), "kid": key.kid, "alg": key.algorithm, "use": "sig"}
            for key in self.keys
            if not isinstance(key.key, OctKey) and not key.has_expired
        ]


class KeyRing:
    """The current keys; the keys file is reloaded when it changes, so keys rotate without a restart.

    If the new file is invalid, the previous keys stay in use and an error is logged.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = keys_path(settings)
        self._keys = load_keys(settings)
        self._removed: set[str] = set()
        self._stamp = self._file_stamp()
        self._next_check = time.monotonic() + _CHECK_PERIOD_SECONDS

    @property
    def current(self) -> KeyList:
        """The current keys; a different object at most a tenth of a second after the file has changed."""
        if self._path is None or time.monotonic() < self._next_check:
            return self._keys
        return self.check_file()

    def check_file(self) -> KeyList:
        """Return the keys after checking the file now: another worker may sign with a key that was just added."""
        if self._path is not None:
            self._next_check = time.monotonic() + _CHECK_PERIOD_SECONDS
            stamp = self._file_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._reload(self._path)
        return self._keys

    @property
    def removed(self) -> list[str]:
        """The ids of keys that this process has loaded and that have been removed from the file."""
        return sorted(self._removed)

    def secrets(self, label: str) -> tuple[bytes, ...]:
        """Return :meth:`KeyList.secrets` of the current keys."""
        return self.current.secrets(label)

    def _reload(self, path: Path) -> None:
        before = {key.kid for key in self._keys.keys if not key.has_expired}
        try:
            self._keys = _read_for(self._settings, path)
        except ConfigurationError as error:
            logger.error("keys file invalid, keeping the previous keys: %s", error)  # noqa: TRY400  # no traceback needed
        else:
            self._removed = (self._removed | before) - {key.kid for key in self._keys.keys}
            logger.info("loaded %d keys, signing with %s", len(self._keys.keys), self._keys.newest.kid)

    def _file_stamp(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def load_keys(settings: Settings) -> KeyList:
    """Load the keys that the settings name; in development, create ``projkit-keys.json`` if it does not exist.

    Raises:
        ConfigurationError: the file cannot be read or holds no usable key.
    """
    path = keys_path(settings)
    if path is not None:
        if settings.keys_file is None:
            make_development_keys(path)
        return _read_for(settings, path)
    assert settings.secret is not None  # noqa: S101  # keys_path() returns None only for a secret
    secret = settings.secret.get_secret_value().encode()
    return KeyList([SigningKey("secret", "HS256", OctKey.import_key(secret), secret)])


def read_keys_file(path: Path, *, production: bool = False) -> KeyList:
    """Return the keys of a JWK Set file (RFC 7517) that have not expired.

    Raises:
        ConfigurationError: it cannot be read or holds no usable key.
    """
    try:
        return key_list(read_jwks(path), production=production)
    except OSError as error:
        raise ConfigurationError(
            f"PROJKIT_KEYS_FILE: cannot read {path}: {error.strerror}; {_NEW_KEYS} {path}"
        ) from error
    except (ValueError, KeyError, TypeError, JoseError) as error:
        raise ConfigurationError(
            f"PROJKIT_KEYS_FILE: {path} is not a JWK Set with at least one usable private or secret key ({error}); "
            f"move it away and {_NEW_KEYS} {path}"
        ) from error


def key_list(jwks: Sequence[Jwk], *, production: bool = False) -> KeyList:
    """Return the keys among ``jwks`` that have not expired.

    Raises:
        ValueError, JoseError: a key is unusable, or no key that can sign is left.
    """
    keys = [
        key for key in (_signing_key(each, production=production) for each in jwks) if not key.has_expired
    ]
    if not keys:
        raise ValueError("no key is left that has not expired")
    if not keys[-1].can_sign:
        raise ValueError("the last key signs, so it must include its private part")
    if len({key.kid for key in keys}) != len(keys):
        raise ValueError("two keys have the same kid")
    return KeyList(keys)


def _read_for(settings: Settings, path: Path) -> KeyList:
    keys = read_keys_file(path, production=settings.env == "production")
    legacy = {each.get_secret_value().encode() for each in settings.legacy_secret}
    if any(isinstance(key.key, OctKey) and key.key.raw_value in legacy for key in keys.keys):
        raise ConfigurationError(
            f"PROJKIT_LEGACY_SECRET is also a key in {path}, so holders of the legacy secret could sign new tokens; "
            "add another key with: projkit keys rotate, and retire this one"
        )
    return keys


def import_verifying_key(data: Jwk) -> SigningKey:
    """Import a JWK whose members permit verifying signatures.

    Raises:
        ValueError: ``use``, ``key_ops``, ``alg`` or the curve forbid it, or the key is too weak.
        JoseError: ``data`` is not a JWK.
    """
    with warnings.catch_warnings():  # what joserfc only warns about is an error below
        warnings.simplefilter("ignore", SecurityWarning)
        key = import_key(data)
    algorithm = data.get("alg") or _default_algorithm(key)
    if algorithm not in ALGORITHMS:
        raise ValueError(f"alg {algorithm} is not one of {', '.join(ALGORITHMS)}")
    if algorithm != _default_algorithm(key):
        raise ValueError(f"alg {algorithm} is not for a key of type {key.key_type}")
    if data.get("use", "sig") != "sig":
        raise ValueError("use must be sig")
    operations = data.get("key_ops")
    if operations is not None and not _may_verify(operations, data):
        raise ValueError("key_ops must allow verify")
    if algorithm in _CURVES and data.get("crv") != _CURVES[algorithm]:
        raise ValueError(f"a key for {algorithm} must have crv {_CURVES[algorithm]}")
    if isinstance(key, RSAKey) and key.raw_value.key_size < _MINIMUM_RSA_BITS:
        raise ValueError(f"an RSA key must have at least {_MINIMUM_RSA_BITS} bits")
    if isinstance(key, RSAKey) and has_roca_fingerprint(_modulus(key)):
        raise ValueError(
            "the RSA key is vulnerable to ROCA: its private part can be computed (CVE-2017-15361)"
        )
    if isinstance(key, OctKey) and len(key.raw_value) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"a secret key must have at least {MINIMUM_SECRET_BYTES} bytes")
    expires = data.get("exp")
    if expires is not None and (not isinstance(expires, int) or isinstance(expires, bool)):
        raise ValueError("exp must be seconds since 1970")
    private = data.get("k") or data.get("d")
    root = private.encode() if isinstance(private, str) else None
    return SigningKey(str(data.get("kid") or key.thumbprint()), algorithm, key, root, expires)


def _modulus(key: RSAKey) -> int:
    raw = key.raw_value
    public = raw.public_key() if isinstance(raw, RSAPrivateKey) else raw
    return public.public_numbers().n


def _may_verify(operations: object, data: Jwk) -> bool:
    # A private key may allow only signing; its signatures are verified with its public part.
    return isinstance(operations, list) and ("verify" in operations or ("sign" in operations and "d" in data))


def _signing_key(data: Jwk, *, production: bool) -> SigningKey:
    if production and data.get(GENERATED):
        raise ValueError("it contains a key that was generated for development")
    key = import_verifying_key(data)
    if isinstance(key.key, OctKey):
        secret = key.key.raw_value
        if is_known(secret) or (production and secret == FOR_TESTS.encode()):
            raise ValueError("it contains a published secret that attackers try first")
    return key


def _default_algorithm(key: Key) -> str:
    for kind, algorithm in ((OctKey, "HS256"), (RSAKey, "RS256"), (ECKey, "ES256"), (OKPKey, "EdDSA")):
        if isinstance(key, kind):
            return algorithm
    raise ValueError(f"a key of type {key.key_type} cannot sign")


def _derive(root: bytes, label: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=f"projkit/{label}".encode()).derive(root)
