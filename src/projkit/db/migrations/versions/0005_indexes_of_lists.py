"""Separate the indexes of archived projects, and let those of lists skip the rows that a filter excludes."""

from dataclasses import replace

from projkit.db.migrations.steps import CreateIndex, DropIndex, Step

revision = "0005"
down_revision = "0004"
compatible_from = "0004"
branch_labels = None
depends_on = None

_KEYS = ("created_at", "updated_at", "name", "due_date", "priority")


def steps(prefix: str) -> list[Step]:
    table = f"{prefix}projects"
    # The previous release counts and lists archived projects together with the others.
    steps: list[Step] = [
        CreateIndex(f"ix_{table}_owner", table, ("tenant_id", "owner_id"), where="deleted_at IS NULL")
    ]
    for name, state in ((f"ix_{table}_unarchived", "IS NULL"), (f"ix_{table}_archived", "IS NOT NULL")):
        where = f"deleted_at IS NULL AND archived_at {state}"
        for key in _KEYS:
            filters = [each for each in ("status", "priority", "due_date") if each != key]
            columns = ("tenant_id", "owner_id", key, "id", *filters)
            index = CreateIndex(f"{name}_{key}", table, columns, where=where)
            steps += _with_included(index) if key == "created_at" else [index]
    steps.append(
        CreateIndex(
            f"ix_{table}_unarchived_status",
            table,
            ("tenant_id", "owner_id", "status", "created_at", "id"),
            where="deleted_at IS NULL AND archived_at IS NULL",
        )
    )
    steps.append(
        CreateIndex(
            f"ix_{table}_tags",
            table,
            ("tags",),
            where="deleted_at IS NULL",
            using="gin",
            parameters="fastupdate = off",
            dialect="postgresql",
        )
    )
    return [*steps, *(DropIndex(f"ix_{table}_{key}") for key in _KEYS)]


def _with_included(index: CreateIndex) -> list[Step]:
    """Return the steps that create the index with what the summary counts, which only PostgreSQL can include."""
    included = ("completed_at", "archived_at", "deleted_at")
    return [replace(index, include=included, dialect="postgresql"), replace(index, dialect="sqlite")]
