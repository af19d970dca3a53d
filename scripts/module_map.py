"""Writes docs/modules.md, the list of all modules and their purpose; ``--check`` only verifies that it is current."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "projkit"
TARGET = ROOT / "docs" / "modules.md"
INTRODUCTION = """# Modules

Every module of the package with the first sentence of its docstring. `python scripts/module_map.py` updates this page;
[CONTRIBUTING.md](../CONTRIBUTING.md) explains how the modules work together.
"""


def purpose(path: Path) -> str:
    """Return the first paragraph of a module's docstring on one line, without reStructuredText roles."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def build(package: Path) -> str:
    """Return the text of the page: a section per folder, a row per module."""
    sections = [INTRODUCTION]
    folders = sorted({path.parent for path in package.rglob("*.py")})
    for folder in folders:
        if "versions" in folder.parts:
            continue
        name = folder.relative_to(package.parent).as_posix()
        lines = [f"## {name}/", ""]
        if folder != package:
            lines += [purpose(folder / "__init__.py"), ""]
        rows = [
            f"| `{path.name}` | {purpose(path)} |"
            for path in sorted(folder.glob("*.py"))
            if path.name != "__init__.py"
        ]
        if rows:
            lines += ["| module | purpose |", "|---|---|", *rows, ""]
        sections.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(sections)


def main(arguments: list[str]) -> int:
    """Write or check the page and return the exit code."""
    text = build(PACKAGE)
    if "--check" not in arguments:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.stderr.write("docs/modules.md is out of date: run python scripts/module_map.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
