"""Fill the benchmark's database. The other commands do this themselves; alone, it only saves them the time."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer
from harness import data


def main(
    fresh: Annotated[bool, typer.Option(help="Drop the benchmark's database and make it anew.")] = False,
) -> None:
    """Fill the peers' table and, where projkit is installed, its table too."""
    started = time.perf_counter()
    asyncio.run(data.make_database(fresh=fresh))
    asyncio.run(data.load_peers())
    print(f"{time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    typer.run(main)
