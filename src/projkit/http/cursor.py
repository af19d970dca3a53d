"""Signed cursors for keyset pagination, each valid for one list only."""

import secrets
from typing import Any, Final

import orjson

from projkit.errors import InvalidCursorError
from projkit.signing import Signer, SigningKeys

_VERSION: Final = 2
_MAC_BYTES: Final = 16


class CursorCodec:
    """Encodes the sort key of a page's last row as a signed token, and decodes it.

    ``context`` (tenant, owner, filter, sort) is signed too, so a cursor is valid for its own list only.
    """

    def __init__(self, keys: SigningKeys) -> None:
        """Create a codec; ``keys`` returns the secrets of cursors, newest first."""
        self._signer = Signer(keys, version=_VERSION, mac_bytes=_MAC_BYTES)

    @classmethod
    def throwaway(cls) -> "CursorCodec":
        """Return a codec with a random key, for cursors that do not outlive the process."""
        key = secrets.token_bytes(32)
        return cls(lambda: (key,))

    def encode(self, position: list[Any], context: bytes) -> str:
        """Return the cursor that continues after ``position``."""
        return self._signer.sign(orjson.dumps(position), context)

    def decode(self, cursor: str, context: bytes) -> list[Any]:
        """Return the position in ``cursor``.

        Raises:
            InvalidCursorError: the cursor was not issued here, or belongs to another list.
        """
        payload = self._signer.unsign(cursor, context)
        if payload is None:
            raise InvalidCursorError
        position: list[Any] = orjson.loads(payload)
        return position
