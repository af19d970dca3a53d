"""Generate src/projkit/known_secrets.bin from a published list of secrets, one per line.

python scripts/known_secrets.py jwt.secrets.list src/projkit/known_secrets.bin

The package was built with the list of https://github.com/wallarm/jwt-secrets (MIT).
"""

import hashlib
import sys
from pathlib import Path

MINIMUM_BYTES = 32  # shorter secrets are rejected for their length
DIGEST_BYTES = 8


def digests(listed: bytes) -> bytes:
    """Return the sorted digest prefixes (SHA-256) of all secrets that are long enough to be accepted otherwise."""
    secrets = {line.strip() for line in listed.split(b"\n")}
    prefixes = {
        hashlib.sha256(each).digest()[:DIGEST_BYTES] for each in secrets if len(each) >= MINIMUM_BYTES
    }
    return b"".join(sorted(prefixes))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Path(sys.argv[2]).write_bytes(digests(Path(sys.argv[1]).read_bytes()))
