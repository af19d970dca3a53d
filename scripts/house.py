"""Print figures about the code for reviewers: wording, duplicate names, sizes, and import cycles.

python scripts/house.py              this tree
python scripts/house.py ../before    another tree beside this one

It informs and always exits with 0; ruff, mypy and import-linter are what fails a build.
"""

import argparse
import ast
import re
import statistics
import sys
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final, TypeVar

PACKAGE: Final = "projkit"
LONGEST: Final = 10  # rows in each table of sizes
SIZES: Final = ("Longest functions (lines)", "Longest modules (lines)")

_DIALECT_DOCSTRING: Final = re.compile(r"(What|Who|Whose|Whether|How)\b")
_DIALECT_WORD: Final = re.compile(r"\b(nobody|somebody|whoever)\b", re.IGNORECASE)
_SCOPE_KEY: Final = re.compile(rf"{PACKAGE}(\.[a-z_]+)+")

Node = TypeVar("Node", bound=ast.AST)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A parsed module of the package."""

    name: str  # as it is imported
    path: Path  # below the package
    source: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """The number of lines."""
        return self.source.count("\n")

    def nodes(self, kind: type[Node]) -> Iterator[Node]:
        """Return all nodes of a kind."""
        return (node for node in ast.walk(self.tree) if isinstance(node, kind))

    def functions(self) -> Iterator[Function]:
        """Return all functions and methods."""
        yield from self.nodes(ast.FunctionDef)
        yield from self.nodes(ast.AsyncFunctionDef)


def load(root: Path) -> list[Module]:
    """Parse the package of a tree.

    Raises:
        SystemExit: The tree has no such package.
    """
    package = root / "src" / PACKAGE
    if not package.is_dir():
        raise SystemExit(f"{package} is not a directory; name the root of a source tree")
    modules = []
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package)
        parts = path.with_suffix("").parts
        name = ".".join((PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)))
        source = file.read_text(encoding="utf-8")
        modules.append(Module(name, path, source, ast.parse(source)))
    return modules


# Wording.


def docstrings(modules: list[Module]) -> list[str]:
    """Return all docstrings of modules, classes and functions."""
    texts = (
        ast.get_docstring(node)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [text for text in texts if text]


def comments(module: Module) -> Iterator[str]:
    """Return the comments of a module."""
    lines = iter(module.source.splitlines(keepends=True))
    for token in tokenize.generate_tokens(lambda: next(lines, "")):
        if token.type == tokenize.COMMENT:
            yield token.string


def bound_names(module: Module, name: str) -> int:
    """Count the places where a module assigns to a variable."""
    stores = sum(node.id == name and isinstance(node.ctx, ast.Store) for node in module.nodes(ast.Name))
    arguments = sum(node.arg == name for node in module.nodes(ast.arg))
    return stores + arguments


def protocols(module: Module) -> int:
    """Count the Protocol classes of a module."""
    return sum(
        any(ast.unparse(base).split("[")[0].endswith("Protocol") for base in node.bases)
        for node in module.nodes(ast.ClassDef)
    )


def length(function: Function) -> int:
    """Return a function's number of lines, signature and docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def functions(modules: list[Module]) -> list[tuple[int, str]]:
    """Return the length and the name of each function, the longest first."""
    return sorted(
        ((length(node), f"{module.path}: {node.name}") for module in modules for node in module.functions()),
        key=lambda each: (-each[0], each[1]),
    )


def figures(modules: list[Module]) -> dict[str, str]:
    """Return the single figures by their labels."""
    texts = docstrings(modules)
    lengths = [lines for lines, _ in functions(modules)]
    return {
        "modules": f"{len(modules):,}",
        "lines": f"{sum(module.lines for module in modules):,}",
        "docstrings": f"{len(texts):,}",
        "  that begin with What, Who, Whether or How": str(
            sum(map(bool, map(_DIALECT_DOCSTRING.match, texts)))
        ),
        "nobody, somebody, whoever": str(sum(len(_DIALECT_WORD.findall(m.source)) for m in modules)),
        "Protocol classes": str(sum(map(protocols, modules))),
        "fmt: skip comments": str(sum("fmt: skip" in text for m in modules for text in comments(m))),
        "assignments to a variable named found": str(sum(bound_names(m, "found") for m in modules)),
        "functions": f"{len(lengths):,}",
        "  median length in lines": f"{statistics.median(lengths):g}",
    }


# Names that stand for several things.


def repeated(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that stand in more than one place, with these places."""
    by_name = defaultdict(list)
    for name, place in places:
        by_name[name].append(place)
    return {name: sorted(where) for name, where in sorted(by_name.items()) if len(where) > 1}


def duplicate_classes(modules: list[Module]) -> dict[str, list[str]]:
    """Return the public classes that share a name, with their modules."""
    return repeated(
        (node.name, str(module.path))
        for module in modules
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )


def duplicate_files(modules: list[Module]) -> dict[str, list[str]]:
    """Return the files that share a name, with their directories."""
    return repeated(
        (module.path.name, f"{module.path.parent}/")
        for module in modules
        if module.path.name != "__init__.py"
    )


def repeated_scope_keys(modules: list[Module]) -> dict[str, list[str]]:
    """Return the strings that look like a scope key and are literals in more than one module."""
    names = {module.name for module in modules}
    return repeated(
        (value, str(module.path))
        for module in modules
        for value in {node.value for node in module.nodes(ast.Constant) if isinstance(node.value, str)}
        if _SCOPE_KEY.fullmatch(value) and value not in names
    )


# The graph of imports.


class _Imports(ast.NodeVisitor):
    """The imports of a module: those that run when it is loaded, and the deferred ones.

    Imports inside functions and for type checkers count as deferred.
    """

    def __init__(self, module: Module, names: set[str]) -> None:
        self.loading: set[str] = set()
        self.deferred: set[str] = set()
        self._names = names
        self._depth = 0
        self.visit(module.tree)

    def _add(self, *names: str) -> None:
        (self.deferred if self._depth else self.loading).update(self._names.intersection(names))

    def visit_Import(self, node: ast.Import) -> None:
        self._add(*(alias.name for alias in node.names))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = node.module or ""
        for alias in node.names:
            submodule = f"{source}.{alias.name}"
            self._add(submodule if submodule in self._names else source)

    def _visit_deferred(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_deferred  # noqa: N815

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            self._visit_deferred(node)
        else:
            self.generic_visit(node)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that import each other (strongly connected components)."""
    reachable: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        reachable[start] = seen
    components = {
        frozenset(other for other in seen if name in reachable[other])
        for name, seen in reachable.items()
        if name in seen
    }
    return sorted(sorted(component) for component in components)


def import_cycles(modules: list[Module]) -> tuple[list[str], list[str]]:
    """Return the cycles of imports at module level, and those that only deferred imports close."""
    names = {module.name for module in modules}
    imports = {module.name: _Imports(module, names) for module in modules}
    loading = cycles({name: each.loading - {name} for name, each in imports.items()})
    every = cycles({name: (each.loading | each.deferred) - {name} for name, each in imports.items()})
    return [_shown(each) for each in loading], [_shown(each) for each in every if each not in loading]


def _shown(cycle: list[str]) -> str:
    return " <-> ".join(name.removeprefix(f"{PACKAGE}.") for name in cycle)


# The report.


def tables(modules: list[Module]) -> dict[str, list[str]]:
    """Return the lists by their headings."""

    def places(names: dict[str, list[str]]) -> list[str]:
        return [f"{name}: {', '.join(where)}" for name, where in names.items()]

    loading, deferred = import_cycles(modules)
    longest = sorted(modules, key=lambda module: (-module.lines, module.name))
    return {
        "Public classes that share a name": places(duplicate_classes(modules)),
        "Files that share a name": places(duplicate_files(modules)),
        "Scope keys that are literals in several files": places(repeated_scope_keys(modules)),
        "Import cycles at module level": loading,
        "Import cycles through functions or TYPE_CHECKING": deferred,
        SIZES[0]: [f"{lines:4} {name}" for lines, name in functions(modules)[:LONGEST]],
        SIZES[1]: [f"{module.lines:4} {module.path}" for module in longest[:LONGEST]],
    }


def print_figures(trees: list[list[Module]], write: Callable[[str], object]) -> None:
    """Write the single figures, a column for each tree."""
    columns = [figures(modules) for modules in trees]
    for label in columns[0]:
        write(f"{label:<46}" + "".join(f"{column[label]:>12}" for column in columns) + "\n")


def print_tables(trees: list[list[Module]], write: Callable[[str], object]) -> None:
    """Write the lists; with two trees, mark what only one of them has."""
    every = [tables(modules) for modules in trees]
    for heading, rows in every[-1].items():
        if heading in SIZES:
            write(f"\n{heading}\n")
            columns = [each[heading] for each in every]
            lines = [
                "".join(f"{row:<66}" for row in row_of).rstrip()
                for row_of in zip_longest(*columns, fillvalue="")
            ]
        elif len(every) == 1:
            write(f"\n{heading}: {_count(rows)}\n")
            lines = [f"  {row}" for row in rows]
        else:
            before = every[0][heading]
            write(f"\n{heading}: before {_count(before)}, after {_count(rows)}\n")
            lines = [f"- {row}" for row in before if row not in rows]
            lines += [f"{' ' if row in before else '+'} {row}" for row in rows]
        for line in lines:
            write(f"  {line}\n")


def _count(rows: list[str]) -> str:
    return str(len(rows)) if rows else "none"


def main() -> None:
    """Print the figures of this tree, or of another one and this one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", nargs="?", type=Path, help="the root of another tree to compare with")
    before: Path | None = parser.parse_args().before
    roots = [Path(__file__).parents[1]] if before is None else [before, Path(__file__).parents[1]]
    trees = [load(root) for root in roots]
    write = sys.stdout.write
    if before is not None:
        write(f"{'':<46}{'before':>12}{'after':>12}\n")
    print_figures(trees, write)
    print_tables(trees, write)


if __name__ == "__main__":
    main()
