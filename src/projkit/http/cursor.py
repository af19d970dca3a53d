"""Opaque cursors that cannot be forged and belong to one list."""

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from projkit.errors import InvalidCursorError

_VERSION: Final = b"\x01"
_MAC_BYTES: Final = 16
_MAX_LENGTH: Final = 2048


class CursorCodec:
    """Makes and reads cursors: a version byte, a MAC, and the sort key of the page's last row.

    The MAC covers ``context`` too (tenant, owner, filter, sort), so a cursor is good for its own list alone.
    """

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        """``keys`` gives the secrets in force: the first makes MACs, all of them verify."""
        self._keys = keys

    @classmethod
    def throwaway(cls) -> "CursorCodec":
        """One with a key of its own, for cursors that do not outlive the process."""
        key = secrets.token_bytes(32)
        return cls(lambda: (key,))

    def encode(self, position: list[Any], context: bytes) -> str:
        """The cursor that continues after ``position``."""
        payload = orjson.dumps(position)
        return (
            base64.urlsafe_b64encode(_VERSION + _mac(self._keys()[0], payload, context) + payload)
            .rstrip(b"=")
            .decode()
        )

    def decode(self, cursor: str, context: bytes) -> list[Any]:
        """The position that ``cursor`` holds.

        Raises:
            InvalidCursorError: it was made for another list, or not by us.
        """
        if len(cursor) > _MAX_LENGTH:
            raise InvalidCursorError
        try:
            raw = base64.b64decode(
                cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
            )
        except (binascii.Error, ValueError):
            raise InvalidCursorError from None
        if base64.urlsafe_b64encode(raw).rstrip(b"=") != cursor.encode():
            raise InvalidCursorError  # one position has one spelling
        payload = raw[1 + _MAC_BYTES :]
        mac = raw[1 : 1 + _MAC_BYTES]
        if raw[:1] != _VERSION or not any(
            hmac.compare_digest(mac, _mac(key, payload, context)) for key in self._keys()
        ):
            raise InvalidCursorError
        position: list[Any] = orjson.loads(payload)
        return position


def _mac(key: bytes, payload: bytes, context: bytes) -> bytes:
    # The context's length comes first, so that no two pairs of context and payload make the same input.
    message = _VERSION + len(context).to_bytes(8, "big") + context + payload
    return hmac.digest(key, message, "sha256")[:_MAC_BYTES]
