"""Validation of values from Python code, which no JSON parser has checked."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from projkit.projects.query import ProjectQuery
from projkit.projects.schemas import Priority, ProjectInput


class Celsius(float):
    """A number of a type that is not encoded as JSON."""


def nested(levels: int) -> dict[str, Any]:
    """Return objects, one inside the other."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


NAIVE = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"name": "a\0b"}, "string_contains_nul"), ({"description": "\0"}, "string_contains_nul"),
        ({"metadata": {"a": {1, 2}}}, "metadata_not_json"), ({"metadata": {"a": 2**70}}, "integer_out_of_range"),
        ({"metadata": {"a": float("nan")}}, "metadata_not_json"), ({"metadata": {"a": {1: 2}}}, "metadata_not_json"),
        ({"metadata": {"a": "\ud800"}}, "string_lone_surrogate"), ({"metadata": nested(64)}, "metadata_not_json"),
        ({"metadata": {"a": ["\0"]}}, "string_contains_nul"), ({"metadata": {"a": {"\0": 1}}}, "string_contains_nul"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata_too_large"),
        ({"metadata": {"a": Celsius(1.5)}}, "metadata_not_json"),
        ({"metadata": {"a": {Priority.LOW: 1}}}, "metadata_not_json"),
        ({"due_date": datetime(2026, 1, 1, tzinfo=UTC)}, "date_format"),
        ({"due_date": "2026-02-30"}, "date_format"), ({"due_date": 1}, "date_format"),
        ({"due_date": "20260101"}, "date_format"),
    ],
)  # fmt: skip
def test_invalid_fields(fields: dict[str, Any], kind: str) -> None:
    """An invalid value gets the same error from Python as over HTTP."""
    with pytest.raises(ValidationError) as caught:
        ProjectInput(**{"name": "A", **fields})
    assert kind in {error["type"] for error in caught.value.errors()}


@pytest.mark.parametrize("name", ["q", "external_id"])
def test_long_filters(name: str) -> None:
    """A filter that is too long gets the same error code as a field that is too long."""
    with pytest.raises(ValidationError) as caught:
        ProjectQuery.model_validate({name: "x" * 201})
    assert [error["type"] for error in caught.value.errors()] == ["string_too_long"]


def test_python_values() -> None:
    """Dates can be dates, times can be aware datetimes, and an escaped ``\\u0000`` is ordinary text."""
    assert ProjectInput(name="A", due_date=date(2026, 1, 31)).due_date == date(2026, 1, 31)
    assert ProjectInput(name="A", metadata={"a": "\\u0000", "b": [1, None]}).metadata["a"] == "\\u0000"
    assert ProjectInput(name="A", metadata=nested(63)).metadata == nested(63)
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert ProjectQuery(created_after=after).created_after == after


@pytest.mark.parametrize("name", ["q", "external_id", "tag"])
def test_unstorable_filters(name: str) -> None:
    """A filter with a text that no project can have is rejected, as it is over HTTP."""
    with pytest.raises(ValidationError, match=r"U\+0000"):
        ProjectQuery.model_validate({name: ("a\0b",) if name == "tag" else "a\0b"})


@pytest.mark.parametrize("value", [NAIVE, "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+14:00", 5])
def test_invalid_times(value: object) -> None:
    """A time without a zone, and other values, are rejected."""
    with pytest.raises(ValidationError, match="RFC 3339"):
        ProjectQuery(created_after=value)  # type: ignore[arg-type]
