"""Rendering of rows as JSON: directly from the driver's values, with JSON columns inserted as text."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from projkit.clock import rfc3339
from projkit.db.statement import Row
from projkit.projects.schemas import PRIORITIES, Project

_OPTIONS: Final = orjson.OPT_UTC_Z


def _time(value: datetime | None) -> datetime | str | None:
    # orjson omits microseconds that are zero; the API always has them.
    if value is None or value.microsecond:
        return value
    return rfc3339(value)


def _content(row: Row) -> dict[str, Any]:
    # By position: creating a ProjectRow for each row of a page would take 2 % of the request.
    (
        identifier, owner_id, name, description, status, priority, tags, start_date, due_date, metadata,
        external_id, archived_at, completed_at, created_at, updated_at, version,
    ) = row  # fmt: skip
    return {
        "id": str(identifier),
        "owner_id": owner_id,
        "name": name,
        "description": description,
        "status": status,
        "priority": PRIORITIES[priority],
        "tags": orjson.Fragment(tags),
        "start_date": start_date,
        "due_date": due_date,
        "metadata": orjson.Fragment(metadata),
        "external_id": external_id,
        "archived_at": _time(archived_at),
        "completed_at": _time(completed_at),
        "created_at": _time(created_at),
        "updated_at": _time(updated_at),
        "version": version,
    }


def render_project(row: Row) -> bytes:
    """Return a project as JSON."""
    return orjson.dumps(_content(row), option=_OPTIONS)


def render_list(
    rows: Sequence[Row], next_cursor: str | None, total: int | None, *, total_is_capped: bool = False
) -> bytes:
    """Return a page as JSON."""
    content = {"items": [_content(row) for row in rows], "next_cursor": next_cursor, "total": total}
    if total is not None:
        content["total_is_capped"] = total_is_capped
    return orjson.dumps(content, option=_OPTIONS)


def as_document(row: Row) -> dict[str, Any]:
    """Return the project as the JSON document of the API, parsed."""
    document: dict[str, Any] = orjson.loads(render_project(row))
    return document


def as_project(row: Row) -> Project:
    """Return the project as a model, for host code."""
    return Project.model_validate(as_document(row))
