"""The expiry of tokens: a run whose token expires before it ends measures nothing but 401."""

import base64
import json
import time
from collections.abc import Sequence
from math import ceil
from typing import Final

MARGIN_SECONDS: Final = 60  # for creating data before the schedule, and for deleting it afterwards


def expiring(tokens: Sequence[str], planned: float) -> str:
    """Return the message on the first token that expires before a run of so many seconds has ended; else empty."""
    for number, token in enumerate(tokens, start=1):
        expires = _expires(token)
        if expires is None or expires - time.time() >= planned + MARGIN_SECONDS:
            continue
        which = f", number {number} of {len(tokens)}," if len(tokens) > 1 else ""
        left = expires - time.time()
        state = f"expires in {left:.0f} s" if left > 0 else f"expired {-left:.0f} s ago"
        minutes = ceil((planned + 2 * MARGIN_SECONDS) / 60)
        return (
            f"the token in PROJKIT_LOAD_TOKEN{which} {state}, and the run takes {planned:.0f} s, with up to "
            f"{MARGIN_SECONDS} s more to create and delete data; use a longer one, as in "
            f'PROJKIT_LOAD_TOKEN="$(projkit token --subject load --ttl {minutes}m)", or set PROJKIT_LOAD_USER and '
            "PROJKIT_LOAD_PASSWORD instead, whose tokens are refreshed"
        )
    return ""


def _expires(token: str) -> float | None:
    """Return the ``exp`` of a JWT, which is not verified here; None if the token has none."""
    payload = token.split(".")[1:2]
    try:
        padded = payload[0] + "=" * (-len(payload[0]) % 4)
        expires = json.loads(base64.urlsafe_b64decode(padded))["exp"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return float(expires) if isinstance(expires, int | float) else None
