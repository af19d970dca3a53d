"""The schemas of a project, for validation and for the OpenAPI document."""

import re
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from projkit.http import strict_json

MAX_METADATA_BYTES: Final = 16_384


class Status(StrEnum):
    """The status of a project."""

    PLANNING = "planning"
    ACTIVE = "active"
    ON_HOLD = "on_hold"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class Priority(StrEnum):
    """The priority of a project, lowest first; lists sort by this rank."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


STATUSES: Final = tuple(status.value for status in Status)
PRIORITIES: Final = tuple(priority.value for priority in Priority)
RANK: Final = {priority: rank for rank, priority in enumerate(PRIORITIES)}

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _storable_text(value: str) -> str:
    try:
        strict_json.require_storable_text(value)
    except strict_json.UnrepresentableValue as error:
        raise PydanticCustomError(error.code, error.detail) from None
    return value


def _calendar_date(value: object) -> object:
    if value is None or (isinstance(value, date) and not isinstance(value, datetime)):
        return value
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise PydanticCustomError("date_format", "Must be a date as YYYY-MM-DD")


def _instant(value: object) -> object:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError("date_time_format", "Must be an RFC 3339 time, as in 2026-01-31T12:00:00Z")


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        strict_json.require_storable(value, ["metadata"])
    except strict_json.UnrepresentableValue as error:
        code = "metadata_not_json" if error.code == "not_json" else error.code
        raise PydanticCustomError(code, error.detail) from None
    try:
        encoded = orjson.dumps(value)
    except TypeError:  # it does not encode subclasses of float, nor those of str as names
        raise PydanticCustomError("metadata_not_json", "Must be a JSON object of plain values") from None
    if len(encoded) > MAX_METADATA_BYTES:
        raise PydanticCustomError("metadata_too_large", "Must be at most 16 KiB of JSON")
    return value


def _unique(tags: list[str]) -> list[str]:
    if len(set(tags)) != len(tags):
        raise PydanticCustomError("tags_not_unique", "Tags must be unique")
    return tags


CalendarDate = Annotated[
    date, BeforeValidator(_calendar_date), WithJsonSchema({"type": "string", "format": "date"})
]
Instant = Annotated[
    datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]
FilterText = Annotated[str, StringConstraints(max_length=200), AfterValidator(_storable_text)]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_storable_text),
    Field(
        description="1 to 200 characters. Leading and trailing whitespace is removed.",
        examples=["Website relaunch"],
    ),
]
Description = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(_storable_text)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=50), AfterValidator(_storable_text)]
Tags = Annotated[
    list[Tag],
    Field(
        max_length=50, description="Unique tags, in the given order.", json_schema_extra={"uniqueItems": True}
    ),
    AfterValidator(_unique),
]
Metadata = Annotated[
    dict[str, Any],
    Field(description="Any JSON object of up to 16 KiB."),
    AfterValidator(_metadata),
]
ExternalId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_storable_text),
    Field(
        description="An id of your own, unique among your projects that are not deleted.",
        examples=["CRM-1042"],
    ),
]


# An input as the docs page shows it, and the project that it creates.
_EXAMPLE_INPUT: Final[dict[str, Any]] = {
    "name": "Website relaunch",
    "description": "New design, same content.",
    "status": "planning",
    "priority": "high",
    "tags": ["web", "2026"],
    "start_date": "2026-03-02",
    "due_date": "2026-06-30",
    "metadata": {"budget": 12000},
    "external_id": "CRM-1042",
}
_EXAMPLE: Final = {
    "id": "0199a3f2-6c1e-7b4a-9d0e-3f5a8c2b7e61",
    "owner_id": "alice",
    **_EXAMPLE_INPUT,
    "archived_at": None,
    "completed_at": None,
    "created_at": "2026-02-11T09:30:00.000000Z",
    "updated_at": "2026-02-11T09:30:00.000000Z",
    "version": 1,
}


class ProjectInput(BaseModel):
    """The writable fields of a project; omitted optional fields take their defaults."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # The external_id is unique: an example that is sent twice would be a conflict.
        json_schema_extra={"examples": [{**_EXAMPLE_INPUT, "external_id": None}]},
    )

    name: Name
    description: Description = ""
    status: Status = Status.PLANNING
    priority: Priority = Priority.MEDIUM
    tags: Tags = []
    start_date: CalendarDate | None = None
    due_date: CalendarDate | None = None
    metadata: Metadata = {}
    external_id: ExternalId | None = None

    @field_validator("due_date", mode="after")
    @classmethod
    def _check_dates(cls, value: date | None, info: ValidationInfo) -> date | None:
        start = info.data.get("start_date")
        if value is not None and start is not None and value < start:
            raise PydanticCustomError("due_before_start", "due_date must not be before start_date")
        return value


class Project(BaseModel):
    """A project."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    owner_id: str
    name: str
    description: str
    status: Status
    priority: Priority
    tags: list[str]
    start_date: date | None
    due_date: date | None
    metadata: dict[str, Any]
    external_id: str | None
    archived_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int = Field(
        description="The version, which increases by one with every change. The ETag is derived from it."
    )


READ_ONLY: Final = frozenset(Project.model_fields) - frozenset(ProjectInput.model_fields)


class ProjectList(BaseModel):
    """A page of projects."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [_EXAMPLE], "next_cursor": None, "total": None}]}
    )

    items: list[Project]
    next_cursor: str | None = Field(description="The `cursor` of the next page; null on the last page.")
    total: int | None = Field(
        description="The number of matching projects, up to 10,000 unless `total=exact`; null without `total`."
    )
    total_is_capped: bool = Field(
        default=False,
        description="Whether there are more than `total` projects; absent without `total`.",
    )


class ProjectStats(BaseModel):
    """Statistics of the caller's projects that are not deleted."""

    total: int
    active_total: int = Field(description="Projects that are not archived.")
    archived: int
    by_status: dict[Status, int] = Field(json_schema_extra={"required": list(STATUSES)})
    by_priority: dict[Priority, int] = Field(json_schema_extra={"required": list(PRIORITIES)})
    overdue: int
    due_within_7_days: int
    created_last_30_days: int
    completed_last_30_days: int
    completion_rate: float | None = Field(
        description="completed / (total - cancelled); null if the denominator is 0."
    )
    updated_at_latest: datetime | None
