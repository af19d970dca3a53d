"""Writes docs/decisions/README.md, the index of all decisions; ``--check`` only verifies that it is up to date.

Every decision must have a date on the line after its heading. The exit code is 1 if one has none, or if the index is
out of date.
"""

import re
import sys
from pathlib import Path

DECISIONS = Path(__file__).parents[1] / "docs" / "decisions"
INTRODUCTION = """# Decisions

One entry per decision, by area: what was decided, why, the alternatives, and the measured figures. Each entry is dated.
An entry that no longer holds stays, with a link to the one that supersedes it.
"""
ENTRY = re.compile(r"^## (?P<title>.+)\n+(?:\*(?P<date>\d{4}-\d{2}-\d{2})[^*]*\*)?", re.MULTILINE)


def anchor(title: str) -> str:
    """Return the fragment of a heading, as GitHub generates it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def build(directory: Path) -> tuple[str, list[str]]:
    """Return the text of the index and the entries without a date."""
    sections, undated = [INTRODUCTION], []
    for path in sorted(directory.glob("*.md")):
        if path.name == "README.md":
            continue
        text = path.read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# ").removesuffix(": decisions")
        lines = [f"## [{title}]({path.name})", ""]
        for entry in ENTRY.finditer(text):
            if entry["date"] is None:
                undated.append(f"{path.name}: {entry['title']}")
            lines.append(f"- {entry['date']} [{entry['title']}]({path.name}#{anchor(entry['title'])})")
        sections.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(sections), undated


def main(arguments: list[str]) -> int:
    """Write or check the index and return the exit code."""
    index, undated = build(DECISIONS)
    path = DECISIONS / "README.md"
    for entry in undated:
        sys.stderr.write(f"no date after the heading of {entry}\n")
    if "--check" not in arguments:
        path.write_text(index, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != index:
        sys.stderr.write("docs/decisions/README.md is out of date: run python scripts/decisions_index.py\n")
        return 1
    return 1 if undated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
