"""Rotation and retirement of keys in the keys file; running servers reload it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from joserfc.errors import JoseError

from projkit.auth.keys import import_verifying_key, key_list, read_keys_file
from projkit.auth.keys_file import GENERATED, Jwk, locked, new_key, read_jwks, write_keys_file
from projkit.errors import ConfigurationError, NotFoundError


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key of the file: it ``signs``, still ``verifies``, or has ``expired``; ``made`` is its ``iat``, if any."""

    kid: str
    algorithm: str
    made: datetime | None
    expires: datetime | None
    state: Literal["signs", "verifies", "expired"]


def entries(path: Path) -> list[KeyEntry]:
    """Return the keys of the file, oldest first.

    Raises:
        ConfigurationError: the file cannot be read or contains no usable key.
    """
    signing = read_keys_file(path).newest.kid
    keys = []
    for data in read_jwks(path):
        key = import_verifying_key(data)
        state: Literal["signs", "verifies", "expired"] = "signs" if key.kid == signing else "verifies"
        if key.has_expired:
            state = "expired"
        keys.append(KeyEntry(key.kid, key.algorithm, _made(data), _time(key.expires), state))
    return keys


def rotate(path: Path, algorithm: str | None, *, development: bool) -> KeyEntry:
    """Add a new key, which signs from now on; the others still verify.

    Args:
        path: the keys file.
        algorithm: the algorithm of the key; None for that of the current signing key.
        development: marks the key so that production rejects it.

    Raises:
        ConfigurationError: the file cannot be used or written.
    """
    with locked(path):
        signing = read_keys_file(path).newest
        key = new_key(algorithm or signing.algorithm)
        if development:
            key[GENERATED] = True
        _replace(path, [*read_jwks(path), key])
    return next(each for each in entries(path) if each.kid == key["kid"])


def retire(path: Path, kid: str) -> None:
    """Remove a key; tokens that it signed are rejected from now on.

    Raises:
        NotFoundError: there is no such key.
        ConfigurationError: it is the signing key, or the file cannot be used or written.
    """
    with locked(path):
        keys = entries(path)
        if kid not in {entry.kid for entry in keys}:
            raise NotFoundError(f"There is no key {kid} in {path}; list the keys with: projkit keys list")
        if kid == _signing(keys):
            raise ConfigurationError(
                f"{kid} is the signing key; add a new one first with: projkit keys rotate"
            )
        _remove(path, [kid])


def retire_replaced(path: Path, before: datetime) -> list[str]:
    """Remove keys that expired or were replaced before ``before``; return their ids.

    A key is replaced when the next one is created, since it signs until then, however old it is.

    Raises:
        ConfigurationError: the file cannot be used or written.
    """
    with locked(path):
        keys = entries(path)
        retired = [
            entry.kid
            for number, entry in enumerate(keys)
            if entry.state == "expired"
            or any(later.made is not None and later.made < before for later in keys[number + 1 :])
        ]
        return _remove(path, [kid for kid in retired if kid != _signing(keys)])


def _remove(path: Path, kids: list[str]) -> list[str]:
    if kids:
        _replace(path, [data for data in read_jwks(path) if import_verifying_key(data).kid not in kids])
    return kids


def _signing(keys: list[KeyEntry]) -> str:
    return next(entry.kid for entry in keys if entry.state == "signs")


def _replace(path: Path, keys: list[Jwk]) -> None:
    try:
        key_list(keys)  # never write a file that a server would reject
        write_keys_file(path, keys, replace=True)
    except (ValueError, JoseError) as error:
        raise ConfigurationError(f"{path} is unchanged: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def _made(data: Jwk) -> datetime | None:
    issued = data.get("iat")
    return _time(issued) if isinstance(issued, int) and not isinstance(issued, bool) else None


def _time(seconds: int | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
