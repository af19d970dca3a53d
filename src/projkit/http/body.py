"""JSON request bodies: reading and validating them."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from projkit.errors import FieldError, InvalidJsonError, UnsupportedMediaTypeError, ValidationFailedError
from projkit.http import strict_json
from projkit.http.request import Request

M = TypeVar("M", bound=BaseModel)


async def read_json(
    request: Request, content_types: tuple[str, ...], limit: int, seconds: float, *, required: bool
) -> Any:
    """Return the JSON value of the body, or ``{}`` if the body is empty and not ``required``.

    Raises:
        UnsupportedMediaTypeError: the content type is none of ``content_types``, or its charset is not UTF-8.
        ContentTooLargeError: the body is larger than ``limit`` bytes.
        RequestTimeoutError: the body does not arrive within ``seconds``.
        InvalidJsonError: the body is not JSON (RFC 8259), or breaks one of the stricter rules of ``strict_json``.
        ValidationFailedError: the body contains values that databases cannot store faithfully.
    """
    content_type = request.header(b"content-type")
    if required:
        _check_content_type(content_type, content_types)
    raw = await request.body(limit, seconds)
    if not required:
        if not raw:
            return {}
        _check_content_type(content_type, content_types)
    try:
        return strict_json.loads(raw)
    except strict_json.InvalidJson as error:
        raise InvalidJsonError(str(error)) from None
    except strict_json.UnrepresentableValue as error:
        raise body_error(FieldError(error.code, error.detail, pointer=error.pointer)) from None


def validate(schema: type[M], content: Any) -> M:
    """Return ``content`` as an instance of ``schema``.

    Raises:
        ValidationFailedError: has one error for each invalid field, identified by its JSON pointer (RFC 6901).
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise body_error(*field_errors(error)) from None


def body_error(*errors: FieldError) -> ValidationFailedError:
    """Return the exception for a request body with ``errors``."""
    return ValidationFailedError(errors, title="The request body has errors")


def field_errors(error: ValidationError) -> list[FieldError]:
    """Return Pydantic's errors in the form of the API contract."""
    return [
        FieldError(
            each["type"], _detail(each["type"], each["msg"]), pointer=strict_json.json_pointer(*each["loc"])
        )
        for each in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _detail(kind: str, text: str) -> str:
    # Pydantic's text names the Python class, which means nothing to a client.
    return "Must be a JSON object" if kind == "model_type" else without_prefix(text)


def without_prefix(text: str) -> str:
    """Return Pydantic's error text without the prefix that it adds to the text of a ``ValueError``."""
    return text.removeprefix("Value error, ")


def _check_content_type(value: str | None, content_types: tuple[str, ...]) -> None:
    if value is None:
        raise UnsupportedMediaTypeError(f"Content-Type is missing. Send {' or '.join(content_types)}")
    media_type, *parameters = (part.strip() for part in value.split(";"))
    if media_type.lower() not in content_types:
        raise UnsupportedMediaTypeError(f"Content-Type must be {' or '.join(content_types)}")
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name.strip().lower() == "charset" and charset.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMediaTypeError("The charset must be utf-8")
