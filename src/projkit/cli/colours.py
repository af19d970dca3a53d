"""Tables and colours, by rich; apart from the rest, since a server needs neither."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

out: Final = Console()
err: Final = Console(stderr=True)


def print_table(names: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
    """Prints a table whole, however narrow the terminal; what is in the cells is shown and never obeyed."""
    table = Table(*(Column(name, overflow="fold") for name in names), box=None)
    for row in rows:
        table.add_row(*(escape(_printable(cell or "")) for cell in row))
    out.print(table, highlight=False)


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
