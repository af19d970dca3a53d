"""``projkit import`` and ``projkit export``."""

import asyncio
import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from projkit.auth.keys import load_keys
from projkit.cli.console import app, err, failed, load_settings
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.tables import build_tables
from projkit.http.cursor import CursorCodec
from projkit.identity import Principal
from projkit.projects.query import MAX_LIMIT, ProjectQuery
from projkit.projects.rendering import as_document, render_project
from projkit.projects.schemas import Project
from projkit.projects.service import ProjectService
from projkit.projects.transfer import BATCH, BadRow, Importer, Report
from projkit.settings import Settings

_FIELDS = tuple(Project.model_fields)


class OnError(StrEnum):
    """What a bad row does."""

    SKIP = "skip"
    STOP = "stop"


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="NDJSON (.ndjson, .jsonl) or CSV (.csv).")],
    owner: Annotated[str, typer.Option(help="Whose projects they become.")],
    on_error: Annotated[OnError, typer.Option(help="Skip bad rows, or stop at the first.")] = OnError.SKIP,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Take projects from a file; run it twice and nothing is doubled."""
    report = asyncio.run(_import(load_settings(), file, owner, stop=on_error is OnError.STOP))
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        err.print(
            f"{report.created} created, {report.updated} updated, {report.unchanged} unchanged, "
            f"{len(report.bad)} bad rows",
            highlight=False,
        )
    if report.bad:
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="NDJSON (.ndjson, .jsonl) or CSV (.csv); - for NDJSON on standard output.")],
    owner: Annotated[str, typer.Option(help="Whose projects.")],
) -> None:
    """Write all undeleted projects of an owner to a file."""
    count = asyncio.run(_export(load_settings(), file, owner))
    err.print(f"{count} projects exported", highlight=False)


async def _import(settings: Settings, file: Path, owner: str, *, stop: bool) -> Report:
    tables = build_tables(settings.table_prefix)
    database = await open_database(settings, tables)
    total = _count_rows(file)
    try:
        importer = Importer(database, tables, Principal(owner), clock=utc_now)
        with _progress() as progress:
            task = progress.add_task("importing", total=total)
            batch: list[tuple[int, Any]] = []
            for line, row in _rows(file):
                batch.append((line, row))
                if len(batch) == BATCH:
                    await _flush(importer, batch, progress, task)
                    if stop and importer.report.bad:
                        break
            await _flush(importer, batch, progress, task)
        return importer.report
    finally:
        await database.close()


async def _flush(importer: Importer, batch: list[tuple[int, Any]], progress: Progress, task: Any) -> None:
    known = len(importer.report.bad)
    await importer.take(batch)
    for bad in importer.report.bad[known:]:
        failed(f"line {bad.line}: {bad.detail}")
    progress.advance(task, len(batch))
    batch.clear()


async def _export(settings: Settings, file: Path, owner: str) -> int:
    tables = build_tables(settings.table_prefix)
    database = await open_database(settings, tables)
    service = ProjectService(
        database, tables, cursors=CursorCodec(load_keys(settings).derive("cursor")), clock=utc_now
    )
    principal, cursor, count = Principal(owner), None, 0
    try:
        with _writer(file) as write:
            while True:
                query = ProjectQuery(archived="any", sort="created_at", limit=MAX_LIMIT, cursor=cursor)
                page = await service.list(principal, query)
                for row in page.rows:
                    write(row)
                count += len(page.rows)
                cursor = page.next_cursor
                if cursor is None:
                    return count
    finally:
        await database.close()


@contextmanager
def _writer(file: Path) -> Iterator[Any]:
    if file == Path("-"):
        yield lambda row: sys.stdout.write(render_project(row).decode() + "\n")
        return
    if file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as target:
            table = csv.DictWriter(target, _FIELDS)
            table.writeheader()
            yield lambda row: table.writerow(_to_csv(as_document(row)))
        return
    _check_suffix(file)
    with file.open("wb") as binary:
        yield lambda row: binary.write(render_project(row) + b"\n")


def _to_csv(document: dict[str, Any]) -> dict[str, Any]:
    for name in ("tags", "metadata"):
        document[name] = orjson.dumps(document[name]).decode()
    return document


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and rows: bytes of one JSON object, or a dict of a CSV row."""
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as source:
            reader = csv.DictReader(source, restkey="", restval="")
            try:
                for row in reader:
                    yield reader.line_num, row
            except csv.Error as error:
                yield reader.line_num, BadRow(reader.line_num, f"not CSV: {error}")
        return
    _check_suffix(file)
    with file.open("rb") as binary:
        for number, line in enumerate(binary, start=1):
            if line.strip():
                yield number, line.strip()


def _count_rows(file: Path) -> int:
    def lines(source: IO[bytes]) -> int:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: source.read(1 << 20), b""))

    with file.open("rb") as binary:
        return lines(binary)


def _check_suffix(file: Path) -> None:
    if file.suffix not in {".ndjson", ".jsonl"}:
        raise typer.BadParameter(f"{file.name} must end in .ndjson, .jsonl or .csv")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err
    )
