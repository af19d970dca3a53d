"""Detection of RSA keys that are vulnerable to ROCA (CVE-2017-15361): their private part can be computed.

Their primes are ``k * M + (65537**a mod M)``, with M the product of the first small primes, so the modulus is a power
of 65537 modulo each of these primes. One in a hundred million other keys has this property too.
"""

from typing import Final

_GENERATOR: Final = 65537
_PRIMES: Final = (
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
)  # fmt: skip


def _powers(prime: int) -> frozenset[int]:
    powers, power = set(), 1
    while power not in powers:
        powers.add(power)
        power = power * _GENERATOR % prime
    return frozenset(powers)


_POWERS: Final = {prime: _powers(prime) for prime in _PRIMES}


def has_roca_fingerprint(modulus: int) -> bool:
    """Return whether an RSA modulus has the ROCA fingerprint."""
    return all(modulus % prime in powers for prime, powers in _POWERS.items())
