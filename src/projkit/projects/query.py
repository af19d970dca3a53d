"""What a list can be asked for."""

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from projkit.projects.schemas import CalendarDate, Instant, Priority, Status, StorableText, Tag

SORT_KEYS: Final = ("created_at", "updated_at", "name", "due_date", "priority")
REPEATABLE: Final = frozenset({"status", "priority", "tag"})
MAX_LIMIT: Final = 100

Sort = Literal[
    "created_at", "updated_at", "name", "due_date", "priority",
    "-created_at", "-updated_at", "-name", "-due_date", "-priority",
]  # fmt: skip


def _limit(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise PydanticCustomError("limit_format", "Must be a number from 1 to 100")
    return value


def _flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise PydanticCustomError("flag_format", "Must be true or false")


class ProjectQuery(BaseModel):
    """Filters, order and place of a list of projects."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: tuple[Status, ...] = Field(default=(), max_length=50, description="Any of these; repeatable.")
    priority: tuple[Priority, ...] = Field(default=(), max_length=50, description="Any of these; repeatable.")
    tag: tuple[Tag, ...] = Field(default=(), max_length=50, description="Has any of these tags; repeatable.")
    q: StorableText = Field(
        default="", max_length=200, description="In name or description, whatever the case."
    )
    archived: Literal["false", "true", "any"] = "false"
    created_after: Instant | None = Field(default=None, description="Strictly after.")
    created_before: Instant | None = Field(default=None, description="Strictly before.")
    updated_after: Instant | None = Field(default=None, description="Strictly after.")
    updated_before: Instant | None = Field(default=None, description="Strictly before.")
    due_after: CalendarDate | None = Field(default=None, description="Strictly after.")
    due_before: CalendarDate | None = Field(default=None, description="Strictly before.")
    external_id: StorableText | None = Field(default=None, max_length=200)
    sort: Sort = Field(
        default="-created_at",
        description="`-` for descending; ties by id in the same direction. `name` by code point, `priority` by rank, "
        "projects without `due_date` last in both directions.",
    )
    limit: Annotated[
        int, BeforeValidator(_limit), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT})
    ] = Field(default=20, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before; opaque.")
    total: Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"type": "boolean"})] = Field(
        default=False, description="Whether to count all that match."
    )

    @property
    def sort_key(self) -> str:
        """The column that the list is sorted by."""
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether the sort is descending."""
        return self.sort.startswith("-")
