"""Tells of every relative link in the documents that leads nowhere; exit code 1 if there is one."""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\]\((?!https?://|mailto:|#)(?P<target>[^)#\s]+)")


def broken(root: Path) -> list[str]:
    """``document: target`` for each link to nothing."""
    documents = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("*/README.md")]
    return [
        f"{document.relative_to(root)}: {match['target']}"
        for document in documents
        for match in LINK.finditer(document.read_text(encoding="utf-8"))
        if not (document.parent / match["target"]).exists()
    ]


if __name__ == "__main__":
    found = broken(Path(__file__).parents[1])
    for line in found:
        sys.stderr.write(f"broken link in {line}\n")
    sys.exit(1 if found else 0)
