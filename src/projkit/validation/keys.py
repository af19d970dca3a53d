"""Self-test of the signing keys: each active key signs and verifies, and the next start would load the same file."""

from collections.abc import Awaitable, Callable
from typing import Final

from joserfc import jws as joserfc_jws
from joserfc.errors import JoseError

from projkit.auth import jws
from projkit.auth.keys import KeyList, KeyRing, SigningKey, load_keys
from projkit.auth.keys_file import keys_path
from projkit.errors import ConfigurationError
from projkit.settings import Settings
from projkit.validation.ephemeral import altered, base64url_json
from projkit.validation.results import ExpectationError, NotConfiguredError, expect

# Neither the type nor the content of a token, so that no entry point accepts what is signed here.
_TYPE: Final = "projkit-validation"
_CONTENT: Final = b"This is not a token."


class KeyChecks:
    """Checks of a kit's active keys and of the file that they come from.

    Args:
        settings: the kit's settings.
        ring: the active keys; None if the kit has not started.
    """

    def __init__(self, settings: Settings, ring: KeyRing | None) -> None:
        self._settings = settings
        self._ring = ring

    async def source(self) -> str:
        """Load the keys again and describe them.

        A running kit keeps its keys if their file breaks; the next start would fail.

        Raises:
            ExpectationError: the file is missing, unreadable or invalid.
        """
        path = keys_path(self._settings)
        try:
            if path is not None:
                path.stat()  # in development, load_keys would create a missing file
            keys = load_keys(self._settings)
        except FileNotFoundError:
            raise ExpectationError(f"{path} is missing; the keys loaded from it remain active") from None
        except (OSError, ConfigurationError) as error:
            unread = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
            reason = "cannot be read" if unread else "is not a usable JWK Set"
            raise ExpectationError(f"{path} {reason}; run `projkit check` for details") from None
        source = "PROJKIT_SECRET" if path is None else str(path)
        return f"{len(keys.keys)} in {source}; {keys.newest.kid} signs with {keys.newest.algorithm}"

    def each(self) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
        """Return a check for each active key and one for each key that was removed since the start."""
        if self._ring is None:
            return []
        keys = self._ring.current.keys
        checks = [(f"key:{key.kid}", _check_of(key)) for key in keys if not key.has_expired]
        return [*checks, *((f"key:{kid}", _report_removed) for kid in self._ring.removed)]


def _check_of(key: SigningKey) -> Callable[[], Awaitable[str]]:
    async def check() -> str:
        if not key.can_sign:
            _expect_unverified(key, f"{base64url_json(_header(key))}.{base64url_json(_TYPE)}.{'A' * 86}")
            return f"{key.algorithm}, verifies only: the private part is not configured"
        token = joserfc_jws.serialize_compact(
            _header(key), _CONTENT, key.key, registry=jws.REGISTRIES[key.algorithm]
        )
        expect(_verifies(key, token), "it does not verify its own signature")
        _expect_unverified(key, altered(token))
        KeyList([key]).secrets(_TYPE)  # MAC keys are derived from it
        return key.algorithm

    return check


async def _report_removed() -> str:
    raise NotConfiguredError("removed since the start: tokens signed with it are rejected")


def _header(key: SigningKey) -> dict[str, str]:
    return {"alg": key.algorithm, "typ": _TYPE, "kid": key.kid}


def _expect_unverified(key: SigningKey, token: str) -> None:
    expect(not _verifies(key, token), "it verifies a signature that it did not make")


def _verifies(key: SigningKey, token: str) -> bool:
    try:
        joserfc_jws.deserialize_compact(token, key.key, registry=jws.REGISTRIES[key.algorithm])
    except (JoseError, ValueError, TypeError):
        return False
    return True
