"""The cost of authentication per request, for each kind of credential and each algorithm, with the session check.

In process, one request at a time, round robin, because no load generator can resolve a few microseconds: the same GET
of one project, with a kit that reads no credentials (the host's ``get_principal``) and with kits that read them. The
difference to the first kit is computed within each round; the table has its median and range.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import typer
from joserfc import jwt
from joserfc.jwk import OctKey
from rich.console import Console
from rich.table import Table

from projkit import Principal, ProjKit, Settings
from projkit.auth.keys import KeyList, read_keys_file
from projkit.auth.keys_file import ALGORITHMS, new_key, write_keys_file
from projkit.auth.session_service import Client
from projkit.auth.tokens import TokenIssuer
from projkit.db import migrate
from projkit.testing.internals import Internals

if TYPE_CHECKING:
    from collections.abc import Iterator

MAINTENANCE = os.environ.get("BENCH_MAINTENANCE_URL", "postgresql://postgres@127.0.0.1/postgres")
REDIS = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/9")
DATABASE = "projkit_bench_authentication"
SUBJECT = "reader"
LEGACY_SECRET = "a legacy secret for the benchmark only"
console = Console(width=110)


@dataclass(frozen=True)
class Kind:
    """A kind of credential, the kit that reads it, and the headers of each request."""

    name: str
    kit: ProjKit
    headers: Iterator[list[tuple[bytes, bytes]]]


def main(
    rounds: Annotated[int, typer.Option(min=3, help="The number of measurements of each kind.")] = 15,
    requests: Annotated[int, typer.Option(min=20, help="The number of requests of each measurement.")] = 200,
    quick: Annotated[bool, typer.Option(help="5 rounds of 100 requests.")] = False,
) -> None:
    """Measure and print the table."""
    if quick:
        rounds, requests = 5, 100
    asyncio.run(_run(rounds, requests))


async def _run(rounds: int, requests: int) -> None:
    url = await _make_database()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        write_keys_file(directory / "keys.json", [new_key(each) for each in ALGORITHMS], replace=False)
        settings = {
            "database_url": url,
            "keys_file": directory / "keys.json",
            "legacy_secret": (LEGACY_SECRET,),
            "access_token_seconds": 3600,
        }
        kits = {
            "none": ProjKit(Settings(**settings), get_principal=get_principal),
            "database": ProjKit(Settings(**settings)),
            "redis": ProjKit(Settings(**settings, redis_url=REDIS)),
            "redis, no cache": ProjKit(Settings(**settings, redis_url=REDIS, session_cache_seconds=0)),
        }
        for kit in kits.values():
            await stack.enter_async_context(kit.lifespan())
        project = await kits["none"].projects.create(Principal(SUBJECT), name="Measured")
        keys = read_keys_file(directory / "keys.json")
        kinds = await _kinds(kits, keys, rounds * requests + 50)
        figures = await _measure(kinds, f"/api/v1/projects/{project.id}", rounds, requests)
    _show(figures)


async def get_principal(_: object) -> Principal:
    """Return the caller without reading a credential."""
    return Principal(SUBJECT)


async def _kinds(kits: dict[str, ProjKit], keys: KeyList, count: int) -> list[Kind]:
    def issue(algorithm: str, **claims: Any) -> str:
        (key,) = (key for key in keys.keys if key.algorithm == algorithm)
        issuer = TokenIssuer(KeyList([key]), kits["database"].settings)
        return issuer.issue(SUBJECT, ("projects:read",), **claims)

    def repeat(*pairs: tuple[bytes, bytes]) -> Iterator[list[tuple[bytes, bytes]]]:
        return itertools.repeat(list(pairs))

    def bearer(token: str) -> tuple[bytes, bytes]:
        return b"authorization", b"Bearer " + token.encode()

    def cookie(name: str, token: str) -> tuple[bytes, bytes]:
        return b"cookie", f"{name}={token}".encode()

    async def session(kit: ProjKit) -> str:
        opened = await Internals(kit).running.auth.sessions.open(
            SUBJECT, ("projects:read",), "", "body", Client("", "")
        )
        return opened.access_token

    exp = int(time.time()) + 3600
    legacy = jwt.encode({"alg": "HS256"}, {"sub": SUBJECT, "exp": exp}, OctKey.import_key(LEGACY_SECRET))
    plain = issue("HS256")
    database, redis, bare = kits["database"], kits["redis"], kits["redis, no cache"]
    verified_before = [
        Kind("none (get_principal)", kits["none"], repeat()),
        Kind("Bearer, no session, database", database, repeat(bearer(plain))),
        Kind("Bearer, no session, Redis", redis, repeat(bearer(plain))),
        Kind("Bearer, session in the database", database, repeat(bearer(await session(database)))),
        Kind("Bearer, session in Redis", redis, repeat(bearer(await session(redis)))),
        Kind("Bearer, session in Redis, no cache", bare, repeat(bearer(await session(bare)))),
        Kind("auth_token, session in Redis", redis, repeat(cookie("auth_token", await session(redis)))),
        Kind("access_token (legacy), Redis", redis, repeat(cookie("access_token", legacy))),
    ]
    verified_first = [
        Kind(
            f"Bearer, {algorithm}, first use, Redis",
            redis,
            iter([[bearer(issue(algorithm))] for _ in range(count)]),
        )
        for algorithm in ALGORITHMS
    ]
    return [*verified_before, *verified_first]


async def _measure(kinds: list[Kind], path: str, rounds: int, requests: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind in kinds:
            count = requests if number else 30  # the first round warms up
            started = time.perf_counter()
            for _ in range(count):
                await _get(kind.kit, path, next(kind.headers))
            if number:
                figures[kind.name].append((time.perf_counter() - started) / count * 1e6)
    return figures


async def _get(kit: ProjKit, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "headers": headers, "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await kit(scope, receive, send)
    if status != 200:
        raise SystemExit(f"{status} instead of 200 for {headers}")


def _show(figures: dict[str, list[float]]) -> None:
    (first, *others) = figures
    table = Table(
        "credential", "µs added", "range", "µs in total", title="the cost of authentication in a GET"
    )
    table.add_row(first, "0", "", f"{median(figures[first]):,.0f}")
    for name in others:
        added = [mine - base for mine, base in zip(figures[name], figures[first], strict=True)]
        spread = f"{min(added):,.0f} to {max(added):,.0f}"
        table.add_row(name, f"{median(added):,.0f}", spread, f"{median(figures[name]):,.0f}")
    console.print(table)


async def _make_database() -> str:
    connection = await asyncpg.connect(MAINTENANCE)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{DATABASE}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()
    url = MAINTENANCE.rpartition("/")[0].replace("postgresql://", "postgresql+asyncpg://") + f"/{DATABASE}"
    await migrate.upgrade(url)
    return url


if __name__ == "__main__":
    typer.run(main)
