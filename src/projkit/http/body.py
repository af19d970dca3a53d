"""Reading a JSON body, and validating what came."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from projkit.errors import FieldError, InvalidJsonError, UnsupportedMediaTypeError, ValidationFailedError
from projkit.http import strict_json
from projkit.http.request import Request

M = TypeVar("M", bound=BaseModel)


async def read_body(
    request: Request, content_types: tuple[str, ...], limit: int, seconds: float, *, required: bool
) -> Any:
    """The body's JSON; of one that is not ``required``, and may turn out to be none, ``{}``.

    Raises:
        UnsupportedMediaTypeError: the content type is none of ``content_types``, or its charset is not UTF-8.
        ContentTooLargeError: the body is larger than ``limit`` bytes.
        InvalidJsonError: it is not JSON as RFC 8259 says, or not as strict as the kit wants it.
        ValidationFailedError: it holds values that no database keeps faithfully.
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
    """``content`` as ``schema``.

    Raises:
        ValidationFailedError: with one error for each wrong field, by RFC 6901 pointer.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise body_error(*field_errors(error)) from None


def body_error(*errors: FieldError) -> ValidationFailedError:
    """A failed validation of the request's body."""
    return ValidationFailedError(errors, title="The request body has errors")


def field_errors(error: ValidationError) -> list[FieldError]:
    """Pydantic's errors as the contract shows them."""
    return [
        FieldError(each["type"], _detail(each["type"], each["msg"]), pointer=pointer(*each["loc"]))
        for each in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _detail(kind: str, text: str) -> str:
    # Pydantic's own sentence names the class, which says nothing to a client.
    return "Must be a JSON object" if kind == "model_type" else message(text)


def message(text: str) -> str:
    """Pydantic's sentence without the class of the exception before it."""
    return text.removeprefix("Value error, ")


def pointer(*path: str | int) -> str:
    """An RFC 6901 JSON pointer."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _check_content_type(value: str | None, content_types: tuple[str, ...]) -> None:
    if value is None:
        raise UnsupportedMediaTypeError(f"Content-Type is missing; send {' or '.join(content_types)}")
    media_type, *parameters = (part.strip() for part in value.split(";"))
    if media_type.lower() not in content_types:
        raise UnsupportedMediaTypeError(f"Content-Type must be {' or '.join(content_types)}")
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name.strip().lower() == "charset" and charset.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMediaTypeError("The charset must be utf-8")
