"""``projkit import`` and ``projkit export``."""

import asyncio
import codecs
import csv
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from projkit.cli.colours import err
from projkit.cli.console import app, load_settings, print_error, require_tenant
from projkit.clock import utc_now
from projkit.db.connect import opened_database
from projkit.errors import ConfigurationError, QueryTooCostlyError
from projkit.http.cursor import CursorCodec
from projkit.http.query import MAX_LIMIT
from projkit.identity import Principal
from projkit.projects.query import ProjectQuery
from projkit.projects.rendering import as_document, render_project
from projkit.projects.schemas import Project
from projkit.projects.service import ProjectService
from projkit.projects.transfer import BATCH, BadRow, Importer, ImportReport
from projkit.settings import Settings

_FIELDS = tuple(Project.model_fields)
STANDARD_OUTPUT = Path("-")
# Longer than any valid field, so that the row is reported instead of ending the import.
_MAX_FIELD_LENGTH = 64 * 1_048_576


class OnError(StrEnum):
    """The handling of invalid rows."""

    SKIP = "skip"
    STOP = "stop"


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="The file to import: NDJSON (.ndjson, .jsonl) or CSV (.csv)."
        ),
    ],
    owner: Annotated[str, typer.Option(help="The subject that will own the projects.")],
    tenant: Annotated[str, typer.Option(help="The tenant; required if PROJKIT_TENANT_CLAIM is set.")] = "",
    on_error: Annotated[
        OnError, typer.Option(help="Skip invalid rows, or stop at the first one.")
    ] = OnError.SKIP,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Import projects from a file. Importing it again creates no duplicates."""
    settings = load_settings()
    principal = _principal(settings, owner, tenant)
    _check_suffix(file)
    report = asyncio.run(_import(settings, file, principal, stop=on_error is OnError.STOP))
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        err.print(
            f"{report.created} created, {report.updated} updated, {report.unchanged} unchanged, "
            f"{len(report.bad)} invalid rows",
            highlight=False,
        )
    if report.bad:
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[
        Path,
        typer.Argument(
            dir_okay=False,
            help="The file to write: NDJSON (.ndjson, .jsonl) or CSV (.csv); - writes NDJSON to standard output.",
        ),
    ],
    owner: Annotated[str, typer.Option(help="The subject that owns the projects.")],
    tenant: Annotated[str, typer.Option(help="The tenant; required if PROJKIT_TENANT_CLAIM is set.")] = "",
) -> None:
    """Export all undeleted projects of an owner. An existing file is replaced once the export is complete."""
    settings = load_settings()
    principal = _principal(settings, owner, tenant)
    if file != STANDARD_OUTPUT:
        _check_suffix(file)
    try:
        count = asyncio.run(_export(settings, file, principal))
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from error
    err.print(f"{count} projects exported", highlight=False)


async def _import(settings: Settings, file: Path, principal: Principal, *, stop: bool) -> ImportReport:
    async with opened_database(settings) as (database, tables):
        total = _count_rows(file)
        importer = Importer(database, tables, principal, clock=utc_now, stop=stop)
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


async def _flush(importer: Importer, batch: list[tuple[int, Any]], progress: Progress, task: Any) -> None:
    reported = len(importer.report.bad)
    await importer.import_batch(batch)
    for bad in importer.report.bad[reported:]:
        print_error(f"line {bad.line}: {bad.detail}")
    progress.advance(task, len(batch))
    batch.clear()


async def _export(settings: Settings, file: Path, principal: Principal) -> int:
    cursor, count = None, 0
    async with opened_database(settings) as (database, tables):
        service = ProjectService(database, tables, cursors=CursorCodec.throwaway(), clock=utc_now)
        total = await _count_projects(service, principal)
        with _writer(file) as write, _progress() as progress:
            task = progress.add_task("exporting", total=total)
            while True:
                query = ProjectQuery(archived="any", sort="created_at", limit=MAX_LIMIT, cursor=cursor)
                page = await service.list(principal, query)
                for row in page.rows:
                    write(row)
                count += len(page.rows)
                progress.update(task, completed=count, total=None if total is None else max(count, total))
                cursor = page.next_cursor
                if cursor is None:
                    return count


async def _count_projects(service: ProjectService, principal: Principal) -> int | None:
    """Return the number of projects for the progress bar, or None if it takes too long to count them."""
    try:
        page = await service.list(principal, ProjectQuery(archived="any", limit=1, total="exact"))
    except QueryTooCostlyError:
        return None
    return page.total


@contextmanager
def _writer(file: Path) -> Iterator[Any]:
    if file == STANDARD_OUTPUT:
        yield lambda row: sys.stdout.write(render_project(row).decode() + "\n")
        return
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with _writing(unfinished, file.suffix.lower()) as write:
            yield write
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _writing(file: Path, suffix: str) -> Iterator[Any]:
    if suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as target:
            table = csv.DictWriter(target, _FIELDS)
            table.writeheader()
            yield lambda row: table.writerow(_to_csv(as_document(row)))
        return
    with file.open("wb") as binary:
        yield lambda row: binary.write(render_project(row) + b"\n")


def _to_csv(document: dict[str, Any]) -> dict[str, Any]:
    for name in ("tags", "metadata"):
        document[name] = orjson.dumps(document[name]).decode()
    return document


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield line numbers and rows: the bytes of a JSON object, or the dict of a CSV row."""
    if file.suffix.lower() == ".csv":
        yield from _csv_rows(file)
        return
    with file.open("rb") as binary:
        for number, line in enumerate(binary, start=1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield number, content.strip()


def _csv_rows(file: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(_MAX_FIELD_LENGTH)
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as source:
        reader = csv.reader(source, strict=True)
        try:
            columns = next(reader, [])
        except csv.Error as error:
            raise ConfigurationError(f"{file.name}, line 1: not CSV: {error}") from None
        while columns and not columns[-1]:  # a trailing comma in the header
            columns.pop()
        _check_columns(file, columns)
        while True:
            first_line = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield first_line, BadRow(first_line, f"not CSV: {error}")
                continue
            if row is None:
                return
            if any(row[len(columns) :]):
                yield first_line, BadRow(first_line, "more values than columns")
            elif row:
                yield first_line, dict(zip(columns, row, strict=False))


def _check_columns(file: Path, columns: list[str]) -> None:
    unknown = [name for name in columns if name not in _FIELDS]
    if unknown or (columns and "name" not in columns):
        wrong = f"unknown column {unknown[0]!r}" if unknown else "the column 'name' is missing"
        raise ConfigurationError(
            f"{file.name}, line 1: {wrong}; the supported columns are {', '.join(_FIELDS)}"
        )


def _count_rows(file: Path) -> int:
    def lines(source: IO[bytes]) -> int:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: source.read(1 << 20), b""))

    with file.open("rb") as binary:
        rows = lines(binary)
    return max(0, rows - 1) if file.suffix.lower() == ".csv" else rows  # without the header


def _principal(settings: Settings, owner: str, tenant: str) -> Principal:
    require_tenant(settings, tenant)
    try:
        return Principal(owner, tenant_id=tenant)
    except ValueError as error:
        raise typer.BadParameter(f"--owner or --tenant: {error}") from None


def _check_suffix(file: Path) -> None:
    if file.suffix.lower() not in {".ndjson", ".jsonl", ".csv"}:
        raise typer.BadParameter(f"{file.name} must end in .ndjson, .jsonl or .csv")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
    )
