"""How often somebody may try to log in.

Two limits: attempts from an address, and failures of an account. A failure is counted before the password is looked
at and taken back when it was right, so that parallel guesses cannot outrun the count.

The second limit must not lock a victim out: a browser that has logged in before has a mark of it (a signed cookie),
and its failures are counted apart from everybody else's. Without the mark the account opens again when the window
ends, which refused attempts do not prolong.
"""

import base64
import hmac
import math
import secrets
from typing import Final

from limits import RateLimitItem, parse

from projkit.auth.counts import Counts
from projkit.auth.keys import SecretsOf
from projkit.errors import RateLimitedError
from projkit.http.client import group_of
from projkit.settings import Settings

DEVICE_LABEL: Final = "known-device"
_VERSION: Final = b"\x01"
_RANDOM_BYTES: Final = 16
_MAC_BYTES: Final = 16
_MARK_LENGTH: Final = 44


class LoginLimits:
    """Counts attempts and failures."""

    def __init__(self, settings: Settings, counts: Counts, devices: "KnownDevices") -> None:
        self._counts = counts
        self._address = parse(settings.login_limit_address)
        self._account = parse(settings.login_limit_account)
        self._devices = devices

    async def attempt(self, address: str) -> None:
        """Counts an attempt from an address.

        Raises:
            RateLimitedError: there were too many.
            UnavailableError: what counts does not answer.
        """
        await self._add(self._address, "address", f"address:{group_of(address)}")

    async def begin(self, account: str, device: str | None) -> str:
        """Counts a failure of an account in advance; gives the name of the count, for :meth:`succeed`.

        Raises:
            RateLimitedError: there were too many.
            UnavailableError: what counts does not answer.
        """
        name = f"account:{account}"
        if device is not None and self._devices.is_known(device, account):
            name = f"device:{device}:{account}"
        await self._add(self._account, "account", name)
        return name

    async def succeed(self, name: str) -> None:
        """Takes the failure back that :meth:`begin` has counted: it was none."""
        await self._counts.add(name, -1, self._account.get_expiry())

    def mark_device(self, account: str) -> str:
        """The mark of a browser from which the account has logged in."""
        return self._devices.mark(account)

    async def _add(self, limit: RateLimitItem, policy: str, name: str) -> None:
        count, left = await self._counts.add(name, 1, limit.get_expiry())
        if count > limit.amount:
            raise RateLimitedError(
                policy, limit=limit.amount, window=limit.get_expiry(), retry_after=max(1, math.ceil(left))
            )


class KnownDevices:
    """Signs and knows the marks of browsers; a mark is good for one account."""

    def __init__(self, keys: SecretsOf) -> None:
        """``keys`` gives the secrets of the label ``known-device``, newest first."""
        self._keys = keys

    def mark(self, account: str) -> str:
        """A new mark."""
        random = secrets.token_bytes(_RANDOM_BYTES)
        raw = _VERSION + random + _mac(self._keys()[0], account, random)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def is_known(self, mark: str, account: str) -> bool:
        """Whether we have made this mark for this account."""
        if len(mark) != _MARK_LENGTH:
            return False
        try:
            raw = base64.b64decode(mark.encode("ascii"), altchars=b"-_", validate=True)
        except ValueError:
            return False
        # Failures are counted by the text of the mark, which must not be another one for the same bytes.
        if base64.urlsafe_b64encode(raw).decode() != mark:
            return False
        random, mac = raw[1 : 1 + _RANDOM_BYTES], raw[1 + _RANDOM_BYTES :]
        return raw[:1] == _VERSION and any(
            hmac.compare_digest(mac, _mac(key, account, random)) for key in self._keys()
        )


def _mac(key: bytes, account: str, random: bytes) -> bytes:
    parts = (_VERSION, account.encode(), random)
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(key, message, "sha256")[:_MAC_BYTES]
