"""Client addresses, from the connection and from the headers of trusted proxies."""

import ipaddress
from collections.abc import Iterable
from typing import Final

from starlette.types import Scope

from projkit.settings import UNIX_SOCKETS

_IPV6_PREFIX: Final = 64  # the prefix of one subscriber, who can choose addresses within it


class ClientAddresses:
    """Reader of client addresses; trusts ``X-Forwarded-For`` only as far as trusted proxies wrote it."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        trusted = set(trusted_proxies)
        # A connection over a Unix socket has no address.
        self._trusts_unix = UNIX_SOCKETS in trusted
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in trusted - {UNIX_SOCKETS}]

    def get(self, scope: Scope) -> str:
        """Return the client's address, or ``""`` if the server does not provide one."""
        address = peer_of(scope)
        if not self.trusts_peer(scope):
            return address
        hops = [
            _without_port(hop.strip())
            for name, value in scope["headers"]
            if name == b"x-forwarded-for"
            for hop in value.decode("latin-1").split(",")
        ]
        for hop in reversed(hops):
            if _parse(hop) is None:
                return address
            address = hop
            if not self._trusts(hop):
                break
        return address

    def is_loopback(self, scope: Scope) -> bool:
        """Return whether the connection comes from a loopback address."""
        parsed = _parse(peer_of(scope))
        return parsed is not None and parsed.is_loopback

    def is_local(self, scope: Scope) -> bool:
        """Return whether the request was made on this machine and not forwarded.

        A proxy on the same machine connects from loopback for all its clients, and adds headers (RFC 7239).
        """
        return self.is_loopback(scope) and not any(
            name == b"forwarded" or name.startswith(b"x-forwarded-") for name, _ in scope["headers"]
        )

    def is_secure(self, scope: Scope) -> bool:
        """Return whether the client uses HTTPS, to this server or to a trusted proxy."""
        if scope.get("scheme") in {"https", "wss"}:
            return True
        if not self.trusts_peer(scope):
            return False
        return any(
            name == b"x-forwarded-proto" and value.partition(b",")[0].strip().lower() in {b"https", b"wss"}
            for name, value in scope["headers"]
        )

    def trusts_peer(self, scope: Scope) -> bool:
        """Return whether the connection comes from a trusted proxy."""
        peer = peer_of(scope)
        return (bool(self._trusted) and self._trusts(peer)) if peer else self._trusts_unix

    def _trusts(self, address: str) -> bool:
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._trusted)


def attempt_key(address: str) -> str:
    """Return the key under which attempts of an address are counted: the address, or the /64 network of IPv6."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return address


def peer_of(scope: Scope) -> str:
    """Return the address of the connection, or ``""`` if the server does not provide one."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _without_port(hop: str) -> str:
    """Return an address without the port that some proxies add, as in ``192.0.2.1:40000`` or ``[2001:db8::1]:443``."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None
