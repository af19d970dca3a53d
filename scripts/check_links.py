"""Report broken relative links in the documents, including anchors; the exit code is 1 if there are any."""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\]\((?!https?://|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub derives them."""
    titles = HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def is_broken(document: Path, path: str, anchor: str | None) -> bool:
    """Return whether a link in ``document`` leads to no file, or to no heading of a Markdown file."""
    target = document.parent / path if path else document
    if not target.exists():
        return True
    return anchor is not None and target.suffix == ".md" and anchor not in anchors(target)


def broken(root: Path) -> list[str]:
    """Return ``document: link`` for each broken link."""
    documents = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("*/README.md")]
    return [
        f"{document.relative_to(root)}: {match[0][2:-1]}"
        for document in documents
        for match in LINK.finditer(document.read_text(encoding="utf-8"))
        if is_broken(document, match["path"], match["anchor"])
    ]


if __name__ == "__main__":
    links = broken(Path(__file__).parents[1])
    for line in links:
        sys.stderr.write(f"broken link in {line}\n")
    sys.exit(1 if links else 0)
