"""The keys: a list, newest last. The last one signs, all that are still valid verify."""

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

_NEW_KEYS: Final = "make a new one with: projkit keys new --file"
_CURVES: Final = {"ES256": "P-256", "EdDSA": "Ed25519"}
_MINIMUM_RSA_BITS: Final = 2048
_LOOK_AGAIN_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key and the one algorithm that it is for; ``root`` is what secrets are derived from."""

    kid: str
    algorithm: str
    key: Key
    root: bytes | None
    expires: int | None = None

    @property
    def can_sign(self) -> bool:
        """Whether the private part is here."""
        return self.root is not None

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= time.time()


class KeyList:
    """The keys that are in force together, and the secrets derived from them."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self.keys = tuple(keys)
        self._by_kid = {key.kid: key for key in self.keys}
        self._derived: dict[str, tuple[tuple[SigningKey, bytes], ...]] = {}

    @property
    def newest(self) -> SigningKey:
        """The key that signs.

        Raises:
            UnavailableError: all that could have expired since they were read.
        """
        for key in reversed(self.keys):
            if key.can_sign and not key.has_expired:
                return key
        raise UnavailableError("Every key that signs has expired")

    def get(self, kid: str) -> SigningKey | None:
        """The key named ``kid``, if it is one of ours and has not expired."""
        key = self._by_kid.get(kid)
        return None if key is None or key.has_expired else key

    def secrets(self, label: str) -> tuple[bytes, ...]:
        """A 32-byte secret for one purpose from each key (HKDF, RFC 5869) that has not expired, newest first.

        The first one makes MACs, all of them verify; no label's secret tells anything about another's.

        Raises:
            UnavailableError: all have expired since they were read.
        """
        found = self._derived.get(label)
        if found is None:
            found = self._derived[label] = tuple(
                (key, _derive(key.root, label)) for key in reversed(self.keys) if key.root is not None
            )
        good = tuple(secret for key, secret in found if not key.has_expired)
        if not good:
            raise UnavailableError("Every key that signs has expired")
        return good

    def public(self) -> list[dict[str, Any]]:
        """The public keys as JWKs (RFC 7517); secret keys have none."""
        return [
            {**key.key.as_dict(private=False), "kid": key.kid, "alg": key.algorithm, "use": "sig"}
            for key in self.keys
            if not isinstance(key.key, OctKey) and not key.has_expired
        ]


class KeyRing:
    """The keys in force now: their file is read again when it changes, so that keys rotate without a restart.

    A file that cannot be used leaves the keys as they were, and the log says so once.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = keys_path(settings)
        self._keys = load_keys(settings)
        self._removed: set[str] = set()
        self._stamp = self._look()
        self._next_look = time.monotonic() + _LOOK_AGAIN_SECONDS

    @property
    def current(self) -> KeyList:
        """The keys; another object as soon as they have changed, a tenth of a second after the file at the latest."""
        if self._path is None or time.monotonic() < self._next_look:
            return self._keys
        return self.look()

    def look(self) -> KeyList:
        """The keys as they are in the file at this moment: another worker may have signed with one just added."""
        if self._path is not None:
            self._next_look = time.monotonic() + _LOOK_AGAIN_SECONDS
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                self._reload(self._path)
        return self._keys

    @property
    def removed(self) -> list[str]:
        """The ids of keys that were in force since this process began, and are in the file no more."""
        return sorted(self._removed)

    def secrets(self, label: str) -> tuple[bytes, ...]:
        """As :meth:`KeyList.secrets`, of the keys that are in force."""
        return self.current.secrets(label)

    def _reload(self, path: Path) -> None:
        before = {key.kid for key in self._keys.keys if not key.has_expired}
        try:
            self._keys = _read_for(self._settings, path)
        except ConfigurationError as error:
            logger.error("the keys stay as they were: %s", error)  # noqa: TRY400  # the message says it all
        else:
            self._removed = (self._removed | before) - {key.kid for key in self._keys.keys}
            logger.info("read %d keys, signing with %s", len(self._keys.keys), self._keys.newest.kid)

    def _look(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def load_keys(settings: Settings) -> KeyList:
    """The keys that the settings name; in development made once, in ``projkit-keys.json``.

    Raises:
        ConfigurationError: the file cannot be read or holds no usable key.
    """
    path = keys_path(settings)
    if path is not None:
        if settings.keys_file is None:
            make_development_keys(path)
        return _read_for(settings, path)
    assert settings.secret is not None  # noqa: S101  # only then there is no path
    secret = settings.secret.get_secret_value().encode()
    return KeyList([SigningKey("secret", "HS256", OctKey.import_key(secret), secret)])


def read_keys_file(path: Path, *, production: bool = False) -> KeyList:
    """The keys in the JWK Set (RFC 7517) in ``path`` that have not expired.

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
    """The keys among ``jwks`` that have not expired.

    Raises:
        ValueError, JoseError: one of them is no usable key, or none is left that signs.
    """
    keys = [
        key for key in (_signing_key(each, production=production) for each in jwks) if not key.has_expired
    ]
    if not keys:
        raise ValueError("there is no key that has not expired")
    if not keys[-1].can_sign:
        raise ValueError("the last key must have its private part, since it signs")
    if len({key.kid for key in keys}) != len(keys):
        raise ValueError("two keys have the same kid")
    return KeyList(keys)


def _read_for(settings: Settings, path: Path) -> KeyList:
    keys = read_keys_file(path, production=settings.env == "production")
    legacy = {each.get_secret_value().encode() for each in settings.legacy_secret}
    if any(isinstance(key.key, OctKey) and key.key.raw_value in legacy for key in keys.keys):
        raise ConfigurationError(
            f"PROJKIT_LEGACY_SECRET is also a key in {path}, and whoever knows the old secret could make new tokens; "
            "add another key with: projkit keys rotate, and retire this one"
        )
    return keys


def import_verifying_key(data: Jwk) -> SigningKey:
    """A key by which tokens may be verified, whose own members do not forbid it.

    Raises:
        ValueError: ``use``, ``key_ops``, ``alg`` or the curve say otherwise, or it is too weak.
        JoseError: it is not a JWK.
    """
    with warnings.catch_warnings():  # what joserfc warns of is an error here, below
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
        raise ValueError("the RSA key is one whose private part can be computed (CVE-2017-15361)")
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
    # A private key may be marked for signing alone: what it has signed is verified with its public part.
    return isinstance(operations, list) and ("verify" in operations or ("sign" in operations and "d" in data))


def _signing_key(data: Jwk, *, production: bool) -> SigningKey:
    if production and data.get(GENERATED):
        raise ValueError("it holds a key that was generated for development")
    key = import_verifying_key(data)
    if isinstance(key.key, OctKey):
        secret = key.key.raw_value
        if is_known(secret) or (production and secret == FOR_TESTS.encode()):
            raise ValueError("it holds a secret that attackers try first")
    return key


def _default_algorithm(key: Key) -> str:
    for kind, algorithm in ((OctKey, "HS256"), (RSAKey, "RS256"), (ECKey, "ES256"), (OKPKey, "EdDSA")):
        if isinstance(key, kind):
            return algorithm
    raise ValueError(f"a key of type {key.key_type} cannot sign")


def _derive(root: bytes, label: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=f"projkit/{label}".encode()).derive(root)
