"""A strict JSON parser for request bodies: every document has one meaning, or is rejected with the reason.

RFC 8259 leaves duplicate names, lone surrogates, large numbers and deep nesting to the implementation, so parsers
disagree on them. This module decides each of these cases.
"""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import isfinite, isinf
from typing import Any, Final, Literal, TypeAlias

__all__ = [
    "JSON",
    "MAX_DEPTH",
    "InvalidJson",
    "UnrepresentableCode",
    "UnrepresentableValue",
    "json_pointer",
    "loads",
    "require_storable",
    "require_storable_text",
]

JSON: TypeAlias = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None
UnrepresentableCode: TypeAlias = Literal[
    "string_contains_nul", "string_lone_surrogate", "integer_out_of_range", "number_out_of_range", "not_json"
]

MAX_DEPTH: Final = 64

_INTEGER_MIN: Final = -(2**63)
_INTEGER_MAX: Final = 2**63 - 1
_WHITESPACE: Final = " \t\n\r"  # RFC 8259 section 2; str.strip() alone would also take U+00A0 and others
_BOM: Final = "\ufeff"
_QUOTED_NAME_LENGTH: Final = 64

# A raw U+0000 is a control character and a raw surrogate is bad UTF-8: only these escapes can make either.
_SUSPECT_ESCAPE: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_UNREPRESENTABLE: Final = re.compile("[\0\ud800-\udfff]")

# Opening brackets become +1 and closing ones -1 (as signed bytes), so that a running sum is the depth.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))


class InvalidJson(ValueError):  # noqa: N818 - the API's error is errors.InvalidJsonError
    """The body is not valid JSON by the strict rules (400 `invalid_json`).

    `detail` describes the error; `position` is its character offset, None if it has no single position.
    """

    def __init__(self, detail: str, position: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.position = position


class UnrepresentableValue(ValueError):  # noqa: N818 - the API's error is errors.ValidationFailedError
    """The body is JSON, but contains a value that cannot be stored exactly (422).

    `pointer` is the RFC 6901 pointer of the value. For a name it is that of the object, since a pointer with the name
    could not be written in the response either.
    """

    def __init__(self, pointer: str, code: UnrepresentableCode, detail: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
        self.code: UnrepresentableCode = code
        self.detail = detail


class _OutOfRange(Exception):  # noqa: N818 - a signal within this module
    """A number is out of range; the document has to be parsed again, with positions."""


class _Marker:
    """A placeholder in the parsed document for a number that is out of range."""

    def __init__(self, code: UnrepresentableCode, detail: str) -> None:
        self.code: UnrepresentableCode = code
        self.detail = detail


_WIDE_INTEGER: Final = _Marker("integer_out_of_range", "The integer does not fit in 64 bits")
_INFINITE: Final = _Marker("number_out_of_range", "The number is too large for a double")


def _integer_or_marker(literal: str) -> int | _Marker:
    # Check the length first: the conversion takes quadratic time, and Python rejects thousands of digits.
    # The grammar allows no leading zeros, so every signed 64-bit integer has at most 20 characters.
    if len(literal) <= 20 and _INTEGER_MIN <= (number := int(literal)) <= _INTEGER_MAX:
        return number
    return _WIDE_INTEGER


def _number_or_marker(literal: str) -> float | _Marker:
    number = float(literal)
    return _INFINITE if isinf(number) else number


def _integer(literal: str) -> int:
    if len(literal) < 19:
        return int(literal)
    number = _integer_or_marker(literal)
    if isinstance(number, _Marker):
        raise _OutOfRange
    return number


def _number(literal: str) -> float:
    number = float(literal)
    if isinf(number):
        raise _OutOfRange
    return number


def _constant(literal: str) -> float:
    raise InvalidJson(f"{literal} is not JSON")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # dumps() escapes to ASCII: the name may contain what UTF-8 cannot represent.
        name = json.dumps(_first_repeated(pairs)[:_QUOTED_NAME_LENGTH])
        raise InvalidJson(f"The name {name} occurs twice in one object")
    return members


def _first_repeated(pairs: list[tuple[str, object]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return name


_FAST: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
)
# Puts a marker in place of a number that is out of range and continues, as the document may still be invalid.
_MARKING: Final = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer_or_marker,
    parse_float=_number_or_marker,
    parse_constant=_constant,
)


def loads(body: bytes) -> JSON:
    """Parse one JSON document (RFC 8259) from UTF-8 bytes, in linear time.

    Numbers with a fraction or an exponent become float (the nearest double), all others int.

    Raises:
        InvalidJson: the bytes are empty, not UTF-8 (RFC 8259 section 8.1), begin with a byte order mark, do
            not follow the grammar (sections 2 to 7; so no NaN or Infinity), repeat a name within an object
            (section 4), or nest deeper than `MAX_DEPTH` (section 9).
        UnrepresentableValue: the bytes are valid, but a string or name contains U+0000 or a lone surrogate (section
            8.2), an integer does not fit in signed 64 bits, or a number overflows a double (section 6). The
            first such place in the document is reported.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        position = len(body[: error.start].decode())
        raise InvalidJson(f"The body is not UTF-8: byte {error.start}", position) from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _reject_deep(body)
    if b"\\u" not in body or _SUSPECT_ESCAPE.search(body) is None:
        try:
            return _parse(_FAST, text)
        except _OutOfRange:
            pass
    document = _parse(_MARKING, text)
    _require_storable(document, [])
    return document


def _parse(decoder: json.JSONDecoder, text: str) -> JSON:
    start = len(text) - len(text.lstrip(_WHITESPACE))
    try:
        document: JSON
        document, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        if not text:
            raise InvalidJson("The body is empty", 0) from None
        if text.startswith(_BOM):
            raise InvalidJson("The body begins with a byte order mark", 0) from None
        raise _malformed(error) from None
    if end != len(text) and (rest := text[end:].lstrip(_WHITESPACE)):
        raise _malformed(json.JSONDecodeError("Extra data", text, len(text) - len(rest)))
    return document


def _malformed(error: json.JSONDecodeError) -> InvalidJson:
    # Some of the decoder's messages end in a colon.
    reason = error.msg.rstrip(": ")
    return InvalidJson(f"{reason}: line {error.lineno} column {error.colno}", error.pos)


def _reject_deep(body: bytes) -> None:
    """Raise InvalidJson if brackets outside strings nest deeper than `MAX_DEPTH`.

    Up to the first syntax error this finds the same strings as the recursive decoder, which therefore never nests
    deeper than what was counted here; after that error it stops anyway.
    """
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    steps = memoryview(outside_strings.translate(_STEPS, _NOT_BRACKETS)).cast("b")
    if max(accumulate(steps), default=0) > MAX_DEPTH:
        raise InvalidJson(f"The document is nested deeper than {MAX_DEPTH} levels")


def require_storable(value: object, path: Sequence[str | int] = ()) -> None:
    """Check that a value can be stored and returned exactly, wherever it comes from.

    This is the one rule for values that Python code passes in and, with the limits on syntax that :func:`loads`
    adds, for those in requests. ``path`` leads to the value from the root of its document.

    Raises:
        UnrepresentableValue: the first value, in document order, that is no JSON (such as a set or NaN) or is nested
            deeper than `MAX_DEPTH`, a text with U+0000 or a lone surrogate, or an integer beyond 64 bits.
    """
    _require_storable(value, list(path))


def require_storable_text(text: str, path: Sequence[str | int] = (), *, name: str = "The string") -> None:
    """Check that a text can be stored: PostgreSQL's text has no U+0000, and UTF-8 no lone surrogates.

    Raises:
        UnrepresentableValue: the first such character in it; ``name`` says in the message what the text is.
    """
    if "\0" not in text and (text.isascii() or _is_utf8(text)):
        return
    match = _UNREPRESENTABLE.search(text)
    if match is None:
        return
    if match[0] == "\0":
        raise UnrepresentableValue(json_pointer(*path), "string_contains_nul", f"{name} contains U+0000")
    raise UnrepresentableValue(
        json_pointer(*path),
        "string_lone_surrogate",
        f"{name} contains the lone surrogate U+{ord(match[0]):04X}",
    )


def _require_storable(value: object, path: list[str | int]) -> None:
    if isinstance(value, dict):
        members: Iterable[tuple[Any, object]] = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    else:
        _require_storable_scalar(value, path)
        return
    if len(path) >= MAX_DEPTH:
        raise UnrepresentableValue(json_pointer(*path), "not_json", f"Nested deeper than {MAX_DEPTH} levels")
    for key, member in members:
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise UnrepresentableValue(
                    json_pointer(*path), "not_json", "A name in the object is not a string"
                )
            require_storable_text(key, path, name="A name in the object")
        path.append(key)
        _require_storable(member, path)
        path.pop()


def _require_storable_scalar(value: object, path: list[str | int]) -> None:
    if isinstance(value, str):
        require_storable_text(value, path)
    elif isinstance(value, _Marker):
        raise UnrepresentableValue(json_pointer(*path), value.code, value.detail)
    elif isinstance(value, int):
        if not _INTEGER_MIN <= value <= _INTEGER_MAX:
            raise UnrepresentableValue(json_pointer(*path), _WIDE_INTEGER.code, _WIDE_INTEGER.detail)
    elif isinstance(value, float):
        if not isfinite(value):
            raise UnrepresentableValue(
                json_pointer(*path), "not_json", "NaN and infinite numbers are not JSON"
            )
    elif value is not None:
        detail = f"A value of type {type(value).__name__} is not JSON"
        raise UnrepresentableValue(json_pointer(*path), "not_json", detail)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_pointer(*path: str | int) -> str:
    """Return the JSON pointer of a path (RFC 6901 section 3)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
