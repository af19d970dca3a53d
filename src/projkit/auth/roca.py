"""RSA keys from chips that made primes of one form, and whose private part can be computed (CVE-2017-15361, ROCA).

Their primes are ``k * M + (65537**a mod M)``, M being the product of the first small primes: the modulus is then a
power of 65537 modulo each of these. Of other keys one in a hundred million is.
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
    """Whether an RSA modulus looks like one of those."""
    return all(modulus % prime in powers for prime, powers in _POWERS.items())
