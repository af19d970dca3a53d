"""Secrets from the word lists of attackers, stored as digests.

``known_secrets.bin`` contains the first eight bytes of the SHA-256 digest of each published secret that has the minimum
length, sorted; ``scripts/known_secrets.py`` generates it. One random secret in 10^16 is rejected by coincidence.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

_DIGEST_BYTES: Final = 8
# The secret of projkit.testing, which is public because it is in this package.
FOR_TESTS: Final = "a secret for tests alone, known to everybody"


@cache
def _digests() -> frozenset[bytes]:
    raw = files("projkit").joinpath("known_secrets.bin").read_bytes()
    return frozenset(raw[start : start + _DIGEST_BYTES] for start in range(0, len(raw), _DIGEST_BYTES))


def is_known(secret: bytes) -> bool:
    """Return whether ``secret``, without surrounding white space, is in a published list."""
    return hashlib.sha256(secret.strip()).digest()[:_DIGEST_BYTES] in _digests()
