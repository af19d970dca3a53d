"""The keys file: a JWK Set (RFC 7517 §5), newest key last, readable by its owner only."""

import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from projkit.errors import ConfigurationError
from projkit.file_lock import locked_file
from projkit.settings import Settings

logger: Final = logging.getLogger("projkit")

ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")
DEVELOPMENT_KEYS: Final = "projkit-keys.json"
GENERATED: Final = "projkit_generated"  # the member that marks a development key
_NEW_KEYS: Final[dict[str, Callable[[], Key]]] = {
    "HS256": lambda: OctKey.generate_key(256),
    "RS256": lambda: RSAKey.generate_key(3072),
    "ES256": lambda: ECKey.generate_key("P-256"),
    "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
}

Jwk = dict[str, Any]


def keys_path(settings: Settings) -> Path | None:
    """Return the path of the keys file, or None if SECRET is set instead.

    In development without KEYS_FILE it is next to the embedded database, otherwise in the working directory.
    """
    if settings.secret is not None:
        return None
    if settings.keys_file is not None:
        return settings.keys_file
    return (settings.sqlite_path.parent if settings.embedded else Path()) / DEVELOPMENT_KEYS


def make_development_keys(path: Path) -> None:
    """Create the file with one HS256 key unless it exists; concurrent processes use the same key.

    Raises:
        ConfigurationError: the directory is not writable.
    """
    if path.exists():
        return
    key = {**new_key("HS256"), "kid": f"dev-{secrets.token_hex(4)}", GENERATED: True}
    try:
        write_keys_file(path, [key], replace=False)
    except OSError as error:
        raise ConfigurationError(
            f"PROJKIT_SECRET is not set and no key can be written to {path.parent}: {error.strerror}; "
            "set PROJKIT_SECRET or make the directory writable"
        ) from error
    logger.warning(
        "PROJKIT_SECRET is not set: a key for development is in %s from now on; keep it out of version control",
        path.absolute(),
    )


def new_key(algorithm: str) -> Jwk:
    """Return a new private key as a JWK; its ``kid`` is the date and a random part.

    Raises:
        ValueError: ``algorithm`` is not one of :data:`ALGORITHMS`.
    """
    make = _NEW_KEYS.get(algorithm)
    if make is None:
        raise ValueError(f"the algorithm must be one of {', '.join(ALGORITHMS)}")
    kid = f"{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(4)}"
    return {
        **make().as_dict(private=True),
        "kid": kid,
        "alg": algorithm,
        "use": "sig",
        "iat": int(time.time()),
    }


def read_jwks(path: Path) -> list[Jwk]:
    """Return the keys of a JWK Set file, not validated.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError: it is not a JWK Set.
    """
    keys = json.loads(path.read_text())["keys"]
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise TypeError("keys must be a list of objects")
    return keys


def write_keys_file(path: Path, keys: Sequence[Jwk], *, replace: bool) -> bool:
    """Write a JWK Set atomically, with mode 0600; return whether it was written.

    With ``replace=False`` an existing file is left unchanged and the result is False. A replaced file keeps its owner,
    so a server that runs as another user can still read it.

    Raises:
        OSError: the directory is not writable, or the owner cannot be preserved.
    """
    path = path.resolve()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".projkit-keys-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump({"keys": list(keys)}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            before = path.stat()
            if hasattr(os, "chown") and before.st_uid != os.geteuid():
                os.chown(temporary, before.st_uid, before.st_gid)
            os.replace(temporary, path)  # atomic, as is os.link below
            return True
        try:
            os.link(temporary, path)  # never replaces a file that another process has just created
        except FileExistsError:
            return False
        return True
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Prevent other commands from changing the file during the block; servers can read it at any time.

    The lock ends with the process that holds it. Its file is removed afterwards, so that a command run by root leaves
    nothing behind that another user cannot open.

    Raises:
        ConfigurationError: another command is changing the file, or its directory is not writable.
    """
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        try:
            acquired = stack.enter_context(locked_file(lock))
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {path}: {error.strerror}; make its directory writable or, if the file is a copy, "
                "change the original and copy it again"
            ) from error
        if not acquired:
            raise ConfigurationError(f"another command is changing {path}; try again when it has finished")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
