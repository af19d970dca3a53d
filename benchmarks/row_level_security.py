"""The cost of row-level security: the same requests to two kits, one with it and one without, interleaved.

Both are ``projkit serve`` on the same database with the same role; each has its own tables with the same rows. Ratios
are computed within each round; the table has their median and range. There is no limit: the setting is optional.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, urlsplit, urlunsplit

import typer
from harness import data, kit, servers, wrk
from peers.common import API, DATABASE_URL
from rich.table import Table
from run import BODY, Case, console, measure, thousandth_page

if TYPE_CHECKING:
    from collections.abc import Mapping

WITHOUT, WITH = "without", "with"
PREFIXES = {WITHOUT: "plain_", WITH: "rls_"}
ROLE = "projkit_bench_role"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="The number of measurements of each case.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="The duration of each measurement.")] = 4.0,
    quick: Annotated[bool, typer.Option(help="3 rounds of 2 seconds.")] = False,
    only: Annotated[str, typer.Option(help="Measure only cases whose name contains this text.")] = "",
) -> None:
    """Measure and print the ratios."""
    if quick:
        rounds, seconds = 3, 2.0
    asyncio.run(data.make_database())
    asyncio.run(data.load_peers())
    environments = asyncio.run(_prepare())
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(servers.running(_spec(name), environment))
            for name, environment in environments.items()
        }
        cases = [case for case in _cases(running[WITHOUT]) if only in case.name]
        results = measure(cases, running, rounds, seconds)
    table = Table("case", *PREFIXES, "ratio", "range", title="req/s, medians over the rounds")
    for case in cases:
        rates = {name: [each.per_second for each in results[case.name, name]] for name in PREFIXES}
        ratios = [a / b for a, b in zip(rates[WITH], rates[WITHOUT], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        medians = (f"{median(rates[name]):,.0f}" for name in PREFIXES)
        table.add_row(case.name, *medians, f"{median(ratios):.2f}", spread)
    console.print(table)


async def _prepare() -> dict[str, Mapping[str, str]]:
    """Fill both kits' tables and create a role that is subject to the policies; return each server's environment."""
    password = secrets.token_urlsafe()
    parts = urlsplit(DATABASE_URL)
    netloc = f"{ROLE}:{quote(password)}@{parts.hostname}:{parts.port or 5432}"
    url = urlunsplit(parts._replace(netloc=netloc))
    environments: dict[str, Mapping[str, str]] = {}
    for name, prefix in PREFIXES.items():
        settings = {"PROJKIT_TABLE_PREFIX": prefix, "PROJKIT_ROW_LEVEL_SECURITY": str(name == WITH)}
        kit.migrate(servers.environment(settings))
        table = f"{prefix}projects"
        await data.load_kit(table, kit.COPY.replace(kit.TABLE, table))
        environments[name] = servers.environment({**settings, "PROJKIT_DATABASE_URL": url})
    async with data.connected() as connection:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", ROLE):
            await connection.execute(f"CREATE ROLE {ROLE}")
        await connection.execute(f"ALTER ROLE {ROLE} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '{password}'")
        await connection.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}"
        )
    return environments


def _spec(name: str) -> servers.Spec:
    return replace(kit.spec(), name=name, table=f"{PREFIXES[name]}projects")


def _cases(server: servers.Server) -> list[Case]:
    ids = asyncio.run(data.some_ids(data.READER, 512))
    projects = f"{API}/projects"
    gets = [wrk.Request("GET", f"{projects}/{each}") for each in ids]
    lists = [wrk.Request("GET", f"{projects}?limit=20")]

    def case(name: str, requests: list[wrk.Request], connections: int, subject: str = data.READER) -> Case:
        return Case(name, requests, connections, subject, tuple(PREFIXES))

    deep = [wrk.Request("GET", thousandth_page(server))]
    counted = [wrk.Request("GET", f"{projects}?limit=20&total=true")]
    return [
        case("GET 1", gets, 1),
        case("GET 16", gets, 16),
        case("LIST 16", lists, 16),
        case("POST 16", [wrk.Request("POST", projects, BODY)], 16, data.WRITER),
        case("page 1,000", deep, 1, data.DEEP),
        case("page 1 with total", counted, 1, data.DEEP),
    ]


if __name__ == "__main__":
    typer.run(main)
