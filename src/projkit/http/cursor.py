"""Opaque cursors that cannot be forged and belong to one list."""

import base64
import binascii
import hmac
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

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, position: list[Any], context: bytes) -> str:
        """The cursor that continues after ``position``."""
        payload = orjson.dumps(position)
        return base64.urlsafe_b64encode(_VERSION + self._mac(payload, context) + payload).rstrip(b"=").decode()

    def decode(self, cursor: str, context: bytes) -> list[Any]:
        """The position that ``cursor`` holds.

        Raises:
            InvalidCursorError: it was made for another list, or not by us.
        """
        if len(cursor) > _MAX_LENGTH:
            raise InvalidCursorError
        try:
            raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidCursorError from None
        payload = raw[1 + _MAC_BYTES :]
        if raw[:1] != _VERSION or not hmac.compare_digest(raw[1 : 1 + _MAC_BYTES], self._mac(payload, context)):
            raise InvalidCursorError
        position: list[Any] = orjson.loads(payload)
        return position

    def _mac(self, payload: bytes, context: bytes) -> bytes:
        # The context's length comes first, so that no two pairs of context and payload make the same input.
        message = _VERSION + len(context).to_bytes(8, "big") + context + payload
        return hmac.digest(self._key, message, "sha256")[:_MAC_BYTES]
