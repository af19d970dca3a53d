"""Tables and colours, in a separate module because a server does not need rich."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

out: Final = Console()
err: Final = Console(stderr=True)


def print_table(names: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
    """Print a table without truncating cells; markup and control characters in cells have no effect."""
    table = Table(*(Column(name, overflow="fold") for name in names), box=None)
    for row in rows:
        table.add_row(*(escape(_printable(cell or "")) for cell in row))
    out.print(table, highlight=False)


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
