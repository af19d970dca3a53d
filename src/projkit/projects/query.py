"""The query parameters of lists."""

from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from projkit.http.query import PageLimit
from projkit.projects.schemas import CalendarDate, FilterText, Instant, Priority, Status, Tag

REPEATABLE: Final = frozenset({"status", "priority", "tag"})

Sort = Literal[
    "created_at",
    "updated_at",
    "name",
    "due_date",
    "priority",
    "-created_at",
    "-updated_at",
    "-name",
    "-due_date",
    "-priority",
]
SORT_KEYS: Final[tuple[str, ...]] = tuple(each for each in get_args(Sort) if not each.startswith("-"))


def _total(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value in ("false", "true", "exact"):
        return value
    raise PydanticCustomError("flag_format", "Must be true, false or exact")


class ProjectQuery(BaseModel):
    """The query parameters of a list of projects: filters, sort order and page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: tuple[Status, ...] = Field(
        default=(), max_length=50, description="Only projects with this status; repeat it for several."
    )
    priority: tuple[Priority, ...] = Field(
        default=(), max_length=50, description="Only projects with this priority; repeat it for several."
    )
    tag: tuple[Tag, ...] = Field(
        default=(), max_length=50, description="Only projects with this tag; repeat it for any of several."
    )
    q: FilterText = Field(
        default="", description="Text that the name or the description contains; case-insensitive."
    )
    archived: Literal["false", "true", "any"] = Field(
        default="false",
        description="`false` excludes archived projects, `true` lists only these, `any` lists both.",
    )
    created_after: Instant | None = Field(default=None, description="Only projects created after this time.")
    created_before: Instant | None = Field(
        default=None, description="Only projects created before this time."
    )
    updated_after: Instant | None = Field(default=None, description="Only projects updated after this time.")
    updated_before: Instant | None = Field(
        default=None, description="Only projects updated before this time."
    )
    due_after: CalendarDate | None = Field(default=None, description="Only projects due after this date.")
    due_before: CalendarDate | None = Field(default=None, description="Only projects due before this date.")
    external_id: FilterText | None = Field(
        default=None, description="Only the project with this external id."
    )
    sort: Sort = Field(
        default="-created_at",
        description="The sort field; `-` sorts in descending order. The id breaks ties. `name` sorts by code point, "
        "`priority` by rank. Projects without `due_date` come last in both directions.",
    )
    limit: PageLimit = Field(default=20, description="The maximum number of projects in the page.")
    cursor: str | None = Field(default=None, description="The opaque `next_cursor` of the previous page.")
    total: Annotated[Literal["false", "true", "exact"], BeforeValidator(_total)] = Field(
        default="false",
        description="`true` returns the number of matching projects, up to 10,000; `exact` counts them all, which for "
        "very many projects can take too long (422 `query_too_costly`).",
    )

    @property
    def sort_key(self) -> str:
        """Name of the column by which the list is sorted."""
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether the sort is descending."""
        return self.sort.startswith("-")
