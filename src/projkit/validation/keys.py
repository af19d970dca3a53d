"""Whether each key that is in force signs and verifies, and whether the next start would find it."""

from collections.abc import Awaitable, Callable
from typing import Final

from joserfc import jws as joserfc_jws
from joserfc.errors import JoseError

from projkit.auth import jws
from projkit.auth.keys import KeyList, KeyRing, SigningKey, load_keys
from projkit.auth.keys_file import keys_path
from projkit.errors import ConfigurationError
from projkit.settings import Settings
from projkit.validation.ephemeral import altered, encoded
from projkit.validation.results import CheckFailedError, NotConfiguredError, agree

# Neither the type nor the content of a token: what is signed here no entry point takes.
_TYPE: Final = "projkit-validation"
_CONTENT: Final = b"This is no token."


class KeyChecks:
    """The keys of a kit: those in force, and their file."""

    def __init__(self, settings: Settings, ring: KeyRing | None) -> None:
        """``ring`` holds those in force; None where the kit has not started."""
        self._settings = settings
        self._ring = ring

    async def source(self) -> str:
        """Reads the file anew: a kit goes on with the keys that it has, and the next start could not."""
        path = keys_path(self._settings)
        try:
            if path is not None:
                path.stat()  # in development one that is missing would be made anew
            found = load_keys(self._settings)
        except FileNotFoundError:
            raise CheckFailedError(f"{path} is not there; the keys read from it are still in force") from None
        except (OSError, ConfigurationError) as error:
            unread = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
            reason = "cannot be read" if unread else "is no usable JWK Set"
            raise CheckFailedError(f"{path} {reason}; look closer with: projkit check") from None
        source = "PROJKIT_SECRET" if path is None else str(path)
        return f"{len(found.keys)} in {source}; {found.newest.kid} signs, by {found.newest.algorithm}"

    def each(self) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
        """A check for each key that is in force, and a word on each that was since the start."""
        if self._ring is None:
            return []
        keys = self._ring.current.keys
        checks = [(f"key:{key.kid}", _check_of(key)) for key in keys if not key.has_expired]
        return [*checks, *((f"key:{kid}", _is_removed) for kid in self._ring.removed)]


def _check_of(key: SigningKey) -> Callable[[], Awaitable[str]]:
    async def check() -> str:
        if not key.can_sign:
            _is_refused(key, f"{encoded(_header(key))}.{encoded(_TYPE)}.{'A' * 86}")
            return f"{key.algorithm}, verifies only: its private part is not here"
        token = joserfc_jws.serialize_compact(
            _header(key), _CONTENT, key.key, registry=jws.REGISTRIES[key.algorithm]
        )
        agree(_verifies(key, token), "it does not verify what it has signed")
        _is_refused(key, altered(token))
        KeyList([key]).secrets(_TYPE)  # what MACs are made with is derived from it
        return key.algorithm

    return check


async def _is_removed() -> str:
    raise NotConfiguredError("removed since the start: what it has signed is refused")


def _header(key: SigningKey) -> dict[str, str]:
    return {"alg": key.algorithm, "typ": _TYPE, "kid": key.kid}


def _is_refused(key: SigningKey, token: str) -> None:
    agree(not _verifies(key, token), "it verifies what it has not signed")


def _verifies(key: SigningKey, token: str) -> bool:
    try:
        joserfc_jws.deserialize_compact(token, key.key, registry=jws.REGISTRIES[key.algorithm])
    except (JoseError, ValueError, TypeError):
        return False
    return True
