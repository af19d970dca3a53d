"""Strict parsing of query strings: UTF-8, known names only, and a bounded number of parameters."""

import re
from collections.abc import Iterator
from typing import Annotated, Final, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from projkit.errors import FieldError, ValidationFailedError
from projkit.http.body import without_prefix
from projkit.http.strict_json import UnrepresentableValue, require_storable_text

M = TypeVar("M", bound=BaseModel)
MAX_PARAMETERS: Final = 200
MAX_LIMIT: Final = 100


def _limit(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise PydanticCustomError("limit_format", "Must be a number from 1 to 100")
    return value


# The number of items in a page.
PageLimit = Annotated[
    int,
    Field(ge=1, le=MAX_LIMIT),
    BeforeValidator(_limit),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
]


def read_query(schema: type[M], query_string: bytes, *, repeatable: frozenset[str]) -> M:
    """Return the query string as an instance of ``schema``; its fields in ``repeatable`` are tuples.

    Raises:
        ValidationFailedError: has one error for each parameter that is unknown, repeated, malformed or invalid.
    """
    values: dict[str, str | list[str]] = {}
    errors: list[FieldError] = []
    pairs = list(pairs_of(query_string))
    if len(pairs) > MAX_PARAMETERS:
        raise _failed(
            [
                FieldError(
                    "too_many_parameters", f"At most {MAX_PARAMETERS} parameters are allowed", parameter=""
                )
            ]
        )
    for raw_name, raw_value in pairs:
        try:
            name = unquote_to_bytes(raw_name).decode()
            value = unquote_to_bytes(raw_value).decode()
        except UnicodeDecodeError:
            shown = raw_name.decode("ascii", "backslashreplace")
            errors.append(FieldError("invalid_encoding", "The parameter is not UTF-8", parameter=shown))
            continue
        if name not in schema.model_fields:
            errors.append(FieldError("unknown_parameter", f"Unknown parameter {name!r}", parameter=name))
        elif (unstorable := _unstorable(value)) is not None:
            errors.append(FieldError(unstorable.code, unstorable.detail, parameter=name))
        elif name in repeatable:
            collected = values.setdefault(name, [])
            assert isinstance(collected, list)  # noqa: S101  # the names are disjoint
            collected.append(value)
        elif name in values:
            errors.append(FieldError("repeated_parameter", f"{name} must not be repeated", parameter=name))
        else:
            values[name] = value
    if errors:
        raise _failed(errors)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _failed(
            [
                FieldError(
                    each["type"],
                    without_prefix(each["msg"]),
                    parameter=str(each["loc"][0]) if each["loc"] else "",
                )
                for each in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        ) from None


def pairs_of(query_string: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and values, still percent-encoded; they may contain any bytes that the server lets through."""
    for part in query_string.split(b"&"):
        if part:
            name, _, value = part.replace(b"+", b" ").partition(b"=")
            yield name, value


def _unstorable(text: str) -> UnrepresentableValue | None:
    try:
        require_storable_text(text, name="The value")
    except UnrepresentableValue as error:
        return error
    return None


def _failed(errors: list[FieldError]) -> ValidationFailedError:
    return ValidationFailedError(errors, title="The query parameters have errors")
