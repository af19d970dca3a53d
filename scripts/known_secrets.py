"""Makes src/projkit/known_secrets.bin from a published list of secrets, one a line.

python scripts/known_secrets.py jwt.secrets.list src/projkit/known_secrets.bin

The list that the package was made with is https://github.com/wallarm/jwt-secrets (MIT).
"""

import hashlib
import sys
from pathlib import Path

MINIMUM_BYTES = 32  # shorter secrets are refused by their length
DIGEST_BYTES = 8


def digests(listed: bytes) -> bytes:
    """The first bytes of the SHA-256 digest of each secret that is long enough to be taken otherwise, sorted."""
    secrets = {line.strip() for line in listed.split(b"\n")}
    found = {hashlib.sha256(each).digest()[:DIGEST_BYTES] for each in secrets if len(each) >= MINIMUM_BYTES}
    return b"".join(sorted(found))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Path(sys.argv[2]).write_bytes(digests(Path(sys.argv[1]).read_bytes()))
