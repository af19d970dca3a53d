"""Adding keys to the keys file and removing them from it; servers that run follow by themselves."""

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
    """One key of the file: whether it ``signs``, still ``verifies``, or has ``expired``; ``made`` where it says."""

    kid: str
    algorithm: str
    made: datetime | None
    expires: datetime | None
    state: Literal["signs", "verifies", "expired"]


def entries(path: Path) -> list[KeyEntry]:
    """The keys in the file, oldest first.

    Raises:
        ConfigurationError: it cannot be read or holds no usable key.
    """
    signing = read_keys_file(path).newest.kid
    found = []
    for data in read_jwks(path):
        key = import_verifying_key(data)
        state: Literal["signs", "verifies", "expired"] = "signs" if key.kid == signing else "verifies"
        if key.has_expired:
            state = "expired"
        found.append(KeyEntry(key.kid, key.algorithm, _made(data), _time(key.expires), state))
    return found


def rotate(path: Path, algorithm: str | None, *, development: bool) -> KeyEntry:
    """Adds a new key, which signs from now on; the others go on verifying.

    Args:
        path: the keys file.
        algorithm: what the key is for; None for the same as the key that signs now.
        development: marks the key, so that production refuses it.

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
    """Removes a key: what it has signed is refused from now on.

    Raises:
        NotFoundError: there is no such key.
        ConfigurationError: it is the one that signs, or the file cannot be used or written.
    """
    with locked(path):
        found = entries(path)
        if kid not in {entry.kid for entry in found}:
            raise NotFoundError(f"There is no key {kid} in {path}; see them with: projkit keys list")
        if kid == _signing(found):
            raise ConfigurationError(
                f"{kid} is the key that signs; add another one first with: projkit keys rotate"
            )
        _remove(path, [kid])


def retire_replaced(path: Path, before: datetime) -> list[str]:
    """Removes the keys that were replaced by another before then, and those that have expired; gives their names.

    What counts is when the next key was made, since a key signs until then however old it is.

    Raises:
        ConfigurationError: the file cannot be used or written.
    """
    with locked(path):
        found = entries(path)
        gone = [
            entry.kid
            for number, entry in enumerate(found)
            if entry.state == "expired"
            or any(later.made is not None and later.made < before for later in found[number + 1 :])
        ]
        return _remove(path, [kid for kid in gone if kid != _signing(found)])


def _remove(path: Path, gone: list[str]) -> list[str]:
    if gone:
        _replace(path, [data for data in read_jwks(path) if import_verifying_key(data).kid not in gone])
    return gone


def _signing(found: list[KeyEntry]) -> str:
    return next(entry.kid for entry in found if entry.state == "signs")


def _replace(path: Path, keys: list[Jwk]) -> None:
    try:
        key_list(keys)  # never a file that a server would refuse
        write_keys_file(path, keys, replace=True)
    except (ValueError, JoseError) as error:
        raise ConfigurationError(f"{path} is left as it was: {error}") from error
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
