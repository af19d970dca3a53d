"""``projkit migrate --plan``, and the progress that ``projkit migrate`` prints."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from projkit.cli.migration_progress import MigrationProgress
from projkit.db import migrate, revisions
from projkit.db.migration_plan import NOTHING, PlannedStep, plan
from projkit.db.migrations.steps import Backfill, CreateIndex, DropIndex, add_check
from projkit.errors import SchemaOutOfDateError
from tests.cli.conftest import Run
from tests.conftest import SECRET, settings_for
from tests.db.test_online_migrations import PROJECT, fetch, use_steps
from tests.services import shape

TABLE = "projkit_projects"
BRIEFLY = f"all access to {TABLE}, for less than a second"


def planned(url: str, **changes: Any) -> list[PlannedStep]:
    """Return the plan for a database."""
    return asyncio.run(plan(settings_for(url, **changes)))


def upgrade(url: str, revision: str = "head") -> None:
    """Run the migrations."""
    asyncio.run(migrate.upgrade(settings_for(url).database_url, revision=revision))


def test_an_existing_database(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan has the steps that are still to be run, with their locks and times, and changes nothing."""
    upgrade(empty_postgres_url, "0003")
    asyncio.run(fetch(empty_postgres_url, PROJECT))
    before = asyncio.run(shape(empty_postgres_url))
    index, swap = (each for each in planned(empty_postgres_url) if each.revision == "0004")
    assert (index.revision, index.title) == ("0004", f"create the index ix_{TABLE}_created_at_new")
    assert index.locks == f"other migrations of {TABLE}; reads and writes continue"
    assert 0 < index.seconds < 1
    assert swap == PlannedStep("0004", f"replace the index ix_{TABLE}_created_at", BRIEFLY, 0)
    assert asyncio.run(shape(empty_postgres_url)) == before
    progress = '{"revision": "0004", "steps": 1}'
    asyncio.run(fetch(empty_postgres_url, f"UPDATE projkit_alembic_version SET progress = '{progress}'"))
    assert planned(empty_postgres_url)[0] == swap
    asyncio.run(fetch(empty_postgres_url, "UPDATE projkit_alembic_version SET progress = NULL"))
    upgrade(empty_postgres_url)
    assert planned(empty_postgres_url) == []
    tables = f"projkit_idempotency_keys and {TABLE}"
    locks = f"all access to {tables}, for less than a second"
    assert planned(empty_postgres_url, row_level_security=True) == [
        PlannedStep("", "create the policies of row-level security", locks, 0)
    ]
    known = revisions.known()
    skipped = CreateIndex("ix_never", TABLE, ("name",), condition="SELECT false")
    use_steps(monkeypatch, skipped, DropIndex(f"ix_{TABLE}_name"))
    (drop,) = planned(empty_postgres_url)
    assert (drop.title, drop.seconds) == (f"drop the index ix_{TABLE}_name", 0)
    use_steps(
        monkeypatch,
        Backfill(TABLE, ("tenant_id", "id"), "name = ''", "true"),
        *add_check(TABLE, "ck", "true"),
    )
    rows = f"changes of the same rows of {TABLE}, for a tenth of a second"
    others = f"other migrations of {TABLE}; reads and writes continue"
    steps = planned(empty_postgres_url)
    assert [each.locks for each in steps] == [rows, BRIEFLY, others]
    assert steps[0].seconds > steps[2].seconds > 0
    use_steps(monkeypatch, skipped)
    (record,) = planned(empty_postgres_url)
    assert (record.title, record.locks) == ("record the revision", NOTHING)
    upgrade(empty_postgres_url)
    monkeypatch.setattr(revisions, "known", lambda: known)
    with pytest.raises(SchemaOutOfDateError, match="9000"):
        planned(empty_postgres_url)


def test_new_databases(empty_postgres_url: str, tmp_path: Path) -> None:
    """The plan of a new database has all steps, and creates neither a file nor a table."""
    steps = planned(empty_postgres_url)
    assert steps[0] == PlannedStep("0001", "Create the table of projects", NOTHING, 0)
    assert {each.locks for each in steps} == {NOTHING}
    assert asyncio.run(shape(empty_postgres_url)) == []
    path = tmp_path / "new.db"
    steps = planned(f"sqlite:///{path}")
    assert steps[3] == PlannedStep("0004", "record the revision", "all writes, until the migration ends", 0)
    assert not path.exists()
    upgrade(f"sqlite:///{path}", "0003")
    assert planned(f"sqlite:///{path}") == steps[3:]


def test_commands(run: Run, empty_postgres_url: str) -> None:
    """The plan is a table on standard output; a migration prints its steps."""
    variables = {"PROJKIT_SECRET": SECRET, "PROJKIT_DATABASE_URL": empty_postgres_url}
    upgrade(empty_postgres_url, "0003")
    asyncio.run(fetch(empty_postgres_url, PROJECT))
    plan_text = run("migrate", "--plan", **variables).stdout
    assert "all access to" in plan_text
    assert "less than 1 s" in plan_text
    assert f"create the index ix_{TABLE}_created_at_new" in run("migrate", **variables).stderr
    assert "there is nothing to migrate" in run("migrate", "--plan", **variables).stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool) -> None:
    """On a terminal there is a bar, elsewhere a line for each tenth; a reason to wait is printed once."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with MigrationProgress(console) as progress:
        progress.begin("fill the column [x]")
        for done in (5, 30, 31, 100):
            progress.advance(done, 100)
        for reason in ("in use", "in use", "deadlock"):
            progress.wait(reason)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert printed.count("in use") == printed.count("deadlock") == 1
    if terminal:
        assert "100%" in printed
        assert "━" in printed
    else:
        assert [line for line in printed.splitlines() if line] == [
            "fill the column [x]", "fill the column [x]: 30 %", "fill the column [x]: 100 %", "in use", "deadlock",
        ]  # fmt: skip


@pytest.mark.parametrize(("seconds", "text"), [(0.5, "less than 1 s"), (90, "90 s"), (600, "10 min")])
def test_lengths(seconds: float, text: str) -> None:
    """Lengths are in seconds or minutes."""
    from projkit.cli.database import _length

    assert _length(seconds) == text
