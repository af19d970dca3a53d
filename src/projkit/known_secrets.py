"""Secrets that are in the word lists of attackers, known here by their digests alone.

``known_secrets.bin`` holds the first eight bytes of the SHA-256 digest of each published secret that is long enough
to be taken otherwise, sorted; ``scripts/known_secrets.py`` makes it. One good secret in 10^16 is refused by chance.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

_DIGEST_BYTES: Final = 8
# What projkit.testing uses: it stands in this package for everybody to read.
FOR_TESTS: Final = "a secret for tests alone, known to everybody"


@cache
def _digests() -> frozenset[bytes]:
    raw = files("projkit").joinpath("known_secrets.bin").read_bytes()
    return frozenset(raw[start : start + _DIGEST_BYTES] for start in range(0, len(raw), _DIGEST_BYTES))


def is_known(secret: bytes) -> bool:
    """Whether ``secret`` is in a published list, white space around it aside."""
    return hashlib.sha256(secret.strip()).digest()[:_DIGEST_BYTES] in _digests()
