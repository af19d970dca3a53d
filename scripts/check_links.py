"""Report broken relative links in the documents; the exit code is 1 if there are any."""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\]\((?!https?://|mailto:|#)(?P<target>[^)#\s]+)")


def broken(root: Path) -> list[str]:
    """Return ``document: target`` for each broken link."""
    documents = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("*/README.md")]
    return [
        f"{document.relative_to(root)}: {match['target']}"
        for document in documents
        for match in LINK.finditer(document.read_text(encoding="utf-8"))
        if not (document.parent / match["target"]).exists()
    ]


if __name__ == "__main__":
    links = broken(Path(__file__).parents[1])
    for line in links:
        sys.stderr.write(f"broken link in {line}\n")
    sys.exit(1 if links else 0)
