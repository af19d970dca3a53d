"""Rate limits on logins: attempts per address, and failures per account.

A failure is counted before the password is verified and subtracted if the password was right, so parallel guesses
cannot outrun the count.

The account limit must not lock a victim out. A browser that has logged in before holds a device token (a signed
cookie), and its failures are counted separately. Without the token the account is open again when the window ends;
rejected attempts do not extend the window.

A device token is valid for the name with which the browser logged in, exactly as it was typed, even where failures are
counted under a folded form of the name: a host may distinguish names that the fold does not, and the owner of the
one account could otherwise create device tokens, each with failures of its own, for the other.

A host may find one account under several names, and tell which one it was only after it has verified the password. The
failure is then also counted against that account, and beyond the limit no result is disclosed.
"""

import math
from typing import Final, NamedTuple

from limits import RateLimitItem, parse

from projkit.auth.attempt_counter import AttemptCounter
from projkit.errors import RateLimitedError
from projkit.http.client import attempt_key
from projkit.settings import Settings
from projkit.signing import Signer, SigningKeys

DEVICE_LABEL: Final = "known-device"
_MAC_BYTES: Final = 16


class LoginLimits:
    """The rate limits of logins by password and at providers."""

    def __init__(self, settings: Settings, counter: AttemptCounter, devices: "KnownDevices") -> None:
        self._counter = counter
        self._address = parse(settings.login_limit_address)
        self._account = parse(settings.login_limit_account)
        self._devices = devices

    async def attempt(self, address: str) -> None:
        """Count an attempt from an address.

        Raises:
            RateLimitedError: the limit per address is exceeded.
            UnavailableError: the counter's store does not respond.
        """
        await self._add(self._address, "address", f"address:{attempt_key(address)}")

    async def begin(self, account: str, device: str | None, *, name: str | None = None) -> "FailureCount":
        """Count a failure of an account in advance; return the count, for the other methods.

        Args:
            account: what failures are counted under.
            device: the browser's device token.
            name: what the device token must have been issued for; by default ``account``.

        Raises:
            RateLimitedError: the limit per account is exceeded.
            UnavailableError: the counter's store does not respond.
        """
        count = FailureCount(f"account:{account}", from_known_device=False)
        if device is not None and self._devices.is_known(device, name or account):
            count = FailureCount(f"device:{device}:{account}", from_known_device=True)
        await self._add(self._account, "account", count.name)
        return count

    async def fail(self, account: str, count: "FailureCount") -> None:
        """Count a failure against an account that is known only after the password was verified.

        The name was counted before; a known device has a count of its own, which is enough.

        Raises:
            RateLimitedError: the limit per account is exceeded, so that the result must not be disclosed.
            UnavailableError: the counter's store does not respond.
        """
        if not count.from_known_device:
            await self._add(self._account, "account", f"account:{account}")

    async def require_open(self, account: str, count: "FailureCount") -> None:
        """Return if fewer failures than the limit were counted against an account with :meth:`fail`.

        Raises:
            RateLimitedError: the limit is reached, so that a correct password must not be disclosed either.
            UnavailableError: the counter's store does not respond.
        """
        if not count.from_known_device:
            failures, left = await self._counter.add(f"account:{account}", 0, self._account.get_expiry())
            if failures >= self._account.amount:
                raise _exceeded(self._account, "account", left)

    async def succeed(self, count: "FailureCount") -> None:
        """Subtract the failure that :meth:`begin` counted in advance."""
        await self._counter.add(count.name, -1, self._account.get_expiry())

    def new_device_token(self, name: str) -> str:
        """Return a device token for a browser that has logged in with this name."""
        return self._devices.new_token(name)

    async def _add(self, limit: RateLimitItem, policy: str, name: str) -> None:
        count, left = await self._counter.add(name, 1, limit.get_expiry())
        if count > limit.amount:
            raise _exceeded(limit, policy, left)


def _exceeded(limit: RateLimitItem, policy: str, left: float) -> RateLimitedError:
    return RateLimitedError(
        policy, limit=limit.amount, window=limit.get_expiry(), retry_after=max(1, math.ceil(left))
    )


class FailureCount(NamedTuple):
    """A failure that was counted: the name of its counter, and whether it is that of a known device."""

    name: str
    from_known_device: bool


class KnownDevices:
    """Issues and verifies device tokens; a token is valid for one account."""

    def __init__(self, keys: SigningKeys) -> None:
        """Create the codec; ``keys`` returns the secrets of the label ``known-device``, newest first."""
        self._signer = Signer(keys, mac_bytes=_MAC_BYTES)

    def new_token(self, account: str) -> str:
        """Return a new device token."""
        return self._signer.sign_random(account.encode())

    def is_known(self, device_token: str, account: str) -> bool:
        """Return whether this device token was issued for this account.

        Failures are counted per token text, which is unique: the signer accepts one encoding only.
        """
        return self._signer.unsign(device_token, account.encode()) is not None
