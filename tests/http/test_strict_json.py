import json
import math
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from projkit.http.strict_json import JSON, MAX_DEPTH, InvalidJson, UnrepresentableValue, loads
from tests.corpora import corpus_file, json_test_suite

MEBIBYTE = 1024 * 1024
# Linear work on 1 MiB takes a few tenths of a second; a quadratic slip takes minutes.
BOUND_SECONDS = 5.0  # of the processor, which others may be using as well

REFUSED_THOUGH_VALID: dict[str, type[InvalidJson | UnrepresentableValue]] = {
    "y_object_duplicated_key.json": InvalidJson,
    "y_object_duplicated_key_and_value.json": InvalidJson,
    "y_string_null_escape.json": UnrepresentableValue,
    "y_object_escaped_null_in_key.json": UnrepresentableValue,
}


def rejected(body: bytes) -> InvalidJson | UnrepresentableValue:
    """Return the error of a body that has to be rejected."""
    with pytest.raises((InvalidJson, UnrepresentableValue)) as caught:
        loads(body)
    assert isinstance(caught.value, InvalidJson | UnrepresentableValue)
    caught.value.detail.encode()
    return caught.value


def invalid(body: bytes) -> InvalidJson:
    """Return the error of a body that has to be rejected as invalid."""
    error = rejected(body)
    assert isinstance(error, InvalidJson), error
    assert error.detail
    assert str(error) == error.detail
    return error


def unrepresentable(body: bytes) -> UnrepresentableValue:
    """Return the error of a body that has to be rejected as unrepresentable."""
    error = rejected(body)
    assert isinstance(error, UnrepresentableValue), error
    assert error.detail
    assert str(error) == error.detail
    error.pointer.encode()
    return error


def outcome(body: bytes) -> JSON | InvalidJson | UnrepresentableValue:
    """Return the value or the error; any other exception fails the test."""
    try:
        return loads(body)
    except (InvalidJson, UnrepresentableValue) as error:
        return error


def exactly(value: object) -> str:
    """Write a value so that 1, 1.0 and True differ, -0.0 and 0.0 too, and the order of names counts."""
    return repr(value)


def steps_of(pointer: str) -> list[str]:
    """Read a pointer by RFC 6901 section 4."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


# --- the corpus


@pytest.mark.parametrize("file", json_test_suite("n_"))
def test_what_the_corpus_calls_invalid_is_rejected(file: Path) -> None:
    """Every document that RFC 8259 rejects is rejected as invalid."""
    invalid(file.read_bytes())


@pytest.mark.parametrize("file", json_test_suite("y_"))
def test_what_the_corpus_calls_valid_is_read(file: Path) -> None:
    """Every valid document is read with its exact value, save those with repeated names or U+0000."""
    body = file.read_bytes()
    if error := REFUSED_THOUGH_VALID.get(file.name):
        assert type(rejected(body)) is error
    else:
        assert exactly(loads(body)) == exactly(json.loads(body.decode()))


@pytest.mark.parametrize("file", json_test_suite("i_"))
def test_what_the_corpus_leaves_open_is_read_or_rejected(file: Path) -> None:
    """A document on which parsers may differ gives a value or one of the two errors."""
    outcome(file.read_bytes())


def test_the_corpus_is_whole() -> None:
    """The corpus contains every document that this API rejects although it is valid."""
    for name in REFUSED_THOUGH_VALID:
        corpus_file(f"jsontestsuite/test_parsing/{name}")


# --- invalid documents

NOT_THE_GRAMMAR = [
    *rb"""
    , : ] } [ { " \ ' a nul tru fals Null TRUE False nulll truefalse undefined None NaN Infinity -Infinity
    +Infinity -NaN nan inf -inf [NaN] {"a":NaN} [Infinity] {"a":-Infinity} [1,-Infinity] N Inf -I -Infinit -
    + +1 --1 -+1 01 -01 00 -00 0123 1_000 . .5 -.5 1. -1. 1.e5 1.e 0.e1 1..2 1.2.3 1.-2 1,5 1e 1E 1e+ 1e-
    1e+-1 1ee1 1e1.5 1e1e1 e1 E1 -e1 0x10 0b1 0o7 1f 1L 1n 1/2 1; (1) 1j 0x -0x1 [,] [1,] [,1] [1,,2] [1;2]
    [1:2] [1 [1, 1] [1]] [} [[] []] [1} [[ [{ [{] []{} [][] [], [1],2 [-] {,} {"a"} {"a":} {"a",1} {"a":1,}
    {,"a":1} {"a":1,,"b":2} {1:2} {null:1} {a:1} {'a':1} {"a":1 {"a":1] {"a":1}} {"a"::1} {[]:1} {{}:1} {:1}
    {"a":1;"b":2} {"a"=1} {"a":1,b:2} {}{} {}[] {"a":{} "a a" "a"" "a"b "\ "\" "\\\" 'a' `a` ""x "\a" "\x41"
    "\0" "\'" "\v" "\U0041" "\e" "\1" "\u" "\u1" "\u12" "\u123" "\u123 "\u12G4" "\u-123" "\u+041" "\u0x41"
    "\u00_1" "\u1_23" "\u{41}" "\ud800\u" "\ud800\ "\ud800\u12" "\ud83d\udeXX" "\u000" "\ud80" "\ud800\x"
    [1,/**/2] 1# {"a":/**/1} / null, "a", while(1);{} callback({}) <html> a=1&b=2 * @ $ {{}} [...]
    """.split(),
    b"", b" ", b"\t\r\n ", b"\x00", b"\x01", b"- 1", b"1 000", b"1e 5", "\uff11".encode(),
    "\u0663".encode(), "1\uff12".encode(), "-\uff11".encode(), "1.\uff12".encode(), "1e\uff12".encode(),
    "\u2460".encode(), b"[1 2]", b"[\x0b1]", b'{"a" 1}', b'{"a":1 "b":2}', b'"a" "b"', b'"\\ "',
    b'"\\\n"', b'"\\u 123"', '"\\u004\uff11"'.encode(), b'"\\u00 00"', b'"a\nb"', b'"a\tb"', b'"a\rb"',
    b'"\x00"', b'"\x1f"', b'{"a\nb":1}', b'"\\\t"', b"// c\n1", b"1 // c", b"/* c */1", b"# c\n1",
    b"<!-- -->1", "\xa01".encode(), "1\xa0".encode(), "[\xa0]".encode(), "\u2028 1".encode(),
    "1\u2029".encode(), "\u30001".encode(), "1\u200b".encode(), "\x851".encode(), "\u2060{}".encode(),
    "{}\ufeff".encode(), b"\x0b1", b"\x0c1", b"1\x0b", b"1\x0c", b"1\x00", b"\x001", b"1\x1c", b"[\x0c]",
    b'{"a"\x0c:1}', b"\x7f1", b"1\x1a", b"1 2", b"null null", b"{} x", b"[] []", b"true false", b"0 0",
    b"1\n2", b'{"a":1}\n{"b":2}', b")]}',\n{}",
]  # fmt: skip

NOT_UTF8 = [
    b"\xff", b"\x80", b'"\x80"', b'"\xff"', b'"\xfe"', b'"\xc3"', b'"\xc3("', b'"a\xe9"', b'"\xe2\x82"',
    b'"\xe9t\xe9"', b'"\xf0\x9f\x98"', b'"\xf0(\x8c\xbc"', b'"\xf8\x88\x80\x80\x80"',
    b'"\xfc\x84\x80\x80\x80\x80"', b'"\xf5\x80\x80\x80"', b'"\xf4\x90\x80\x80"', b'"\xc0\x80"',
    b'"\xc0\xaf"', b'"\xc1\xbf"', b'"\xe0\x80\x80"', b'"\xe0\x80\xaf"', b'"\xed\xa0\x80"',
    b'"\xed\xbf\xbf"', b'"\xed\xa0\xbd\xed\xb8\x80"', b'"\xf0\x80\x80\xaf"', b'"\xf0\x82\x82\xac"',
    b"{}\xff", b"\xff{}", b'{"\xff":1}', b"[\x80]", b"1\xe2", b"\xc0", b'{"a":1}\x80', b"\xef\xbb{}",
    b"\xef{}",
]  # fmt: skip

OTHER_ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"]


def test_what_the_grammar_does_not_allow_is_invalid(subtests: pytest.Subtests) -> None:
    """A document that does not follow RFC 8259 is rejected as invalid."""
    for body in NOT_THE_GRAMMAR:
        with subtests.test(body=body):
            invalid(body)


@pytest.mark.parametrize("body", NOT_UTF8)
def test_what_is_not_utf8_is_invalid(body: bytes) -> None:
    """Bytes that are not well-formed UTF-8 are rejected as invalid wherever they stand."""
    invalid(body)


@pytest.mark.parametrize("encoding", OTHER_ENCODINGS)
@pytest.mark.parametrize("text", ["1", "{}", "[]", '"a"', "null", '{"a":[1,"é"]}', '"\U0001f600"'])
def test_other_encodings_are_invalid(text: str, encoding: str) -> None:
    """A document in any encoding but plain UTF-8 is rejected."""
    invalid(text.encode(encoding))


@pytest.mark.parametrize("body", [b"", b" ", b"{}", b"1", b"x", b"\xef\xbb\xbf", b'"\\u0000"', b"[" * 100])
def test_a_byte_order_mark_is_invalid(body: bytes) -> None:
    """A document that begins with a byte order mark is rejected, whatever follows."""
    invalid(b"\xef\xbb\xbf" + body)


def test_a_byte_order_mark_and_an_empty_body_are_named() -> None:
    """The two errors that are invisible in an editor are named in the message."""
    assert "byte order mark" in invalid(b"\xef\xbb\xbf{}").detail
    assert "empty" in invalid(b"").detail


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b"", 0),
        (b"x", 0),
        (b"  x", 2),
        (b"1 x", 2),
        (b"\n [1] \n ,", 8),
        (b"[1,]", None),  # where in it depends on the version of Python
        ('{"é": x}'.encode(), 6),
        ('["\U0001f600", x]'.encode(), 6),
        ('"é'.encode() + b"\xff", 2),
        (b"\xff", 0),
        (b"\xef\xbb\xbf1", 0),
        (b'"a\nb"', 2),
        (b'"\\x"', 1),
        (b"[" * 65 + b"]" * 65, None),
        (b'{"a":1,"a":2}', None),
        (b"[NaN]", None),
    ],
)
def test_the_position_counts_characters(body: bytes, position: int | None) -> None:
    """The position of an error counts characters, not bytes, and is within the document."""
    error = invalid(body)
    if position is not None:
        assert error.position == position
    assert error.position is None or 0 <= error.position <= len(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a":1,"b":2,"a":3}',
        b'{"":1,"":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"\\u0061":1,"\\u0061":2}',
        b'{"a/b":1,"a\\/b":2}',
        '{"é":1,"\\u00e9":2}'.encode(),
        '{"\U0001f600":1,"\\ud83d\\ude00":2}'.encode(),
        b'{"\\u0000":1,"\\u0000":2}',
        b'{"\\ud800":1,"\\uD800":2}',
        b'{"a":{"b":1,"b":2}}',
        b'[{"b":1,"b":2}]',
        b'{"a":[[{"b":{},"b":{}}]]}',
        b'{"a":1e400,"a":1}',
        b'{"a":99999999999999999999,"a":1}',
        b"[" * 63 + b'{"a":1,"a":2}' + b"]" * 63,
        b'{"' + b"k" * 100_000 + b'":1,"' + b"k" * 100_000 + b'":2}',
    ],
)
def test_a_repeated_name_is_invalid(body: bytes) -> None:
    """A name that occurs twice in one object is rejected at any level, however it is escaped, with a short message."""
    assert len(invalid(body).detail) < 1000


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":{"a":{"a":1}}}', {"a": {"a": {"a": 1}}}),
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
        (b'{"a":1,"A":2," a":3}', {"a": 1, "A": 2, " a": 3}),
        ('{"é":1,"e\u0301":2}'.encode(), {"é": 1, "e\u0301": 2}),
        (b'{"a":{"b":1},"c":{"b":1}}', {"a": {"b": 1}, "c": {"b": 1}}),
        (b'{"1":1,"1.0":2}', {"1": 1, "1.0": 2}),
    ],
)
def test_names_that_differ_are_kept(body: bytes, value: JSON) -> None:
    """Names repeat only within one object and only where they are the same code points."""
    assert exactly(loads(body)) == exactly(value)


# --- valid documents


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"null", None),
        (b"true", True),
        (b"false", False),
        (b"0", 0),
        (b"-0", 0),
        (b"-0.0", -0.0),
        (b"0e0", 0.0),
        (b"-0e-0", -0.0),
        (b"1", 1),
        (b"1.0", 1.0),
        (b"10", 10),
        (b"1e0", 1.0),
        (b"1E+2", 100.0),
        (b"1e-2", 0.01),
        (b"0.1", 0.1),
        (b"1e00000000000000000000000000001", 10.0),
        (b"0e99999", 0.0),
        (b"0.000e999999999999", 0.0),
        (b"1e-400", 0.0),
        (b"-1e-400", -0.0),
        (b"5e-324", 5e-324),
        (b"2.4703282292062327e-324", 0.0),
        (b"2.4703282292062328e-324", 5e-324),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
        (b"1.7976931348623158079e308", 1.7976931348623157e308),
        (b"9007199254740993", 9007199254740993),
        (b"9007199254740993.0", 9007199254740992.0),
        (b"123456789012345678", 123456789012345678),
        (b"999999999999999999", 999999999999999999),
        (b"-999999999999999999", -999999999999999999),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775807", -(2**63) + 1),
        (b"-9223372036854775808", -(2**63)),
        (b"9223372036854775808.0", 2.0**63),
        (b"9223372036854775808e0", 2.0**63),
        (b"1e19", 1e19),
        (b"[9223372036854775807,-9223372036854775808]", [2**63 - 1, -(2**63)]),
        (b'""', ""),
        (b'"a"', "a"),
        (b'"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\/\b\f\n\r\t'),
        (b'"\\u0001\\u001f\\u007f"', "\x01\x1f\x7f"),
        (b'"\x7f"', "\x7f"),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"\\\\\\\\u0000"', "\\\\u0000"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"\\\\u0000":"\\\\udfff"}', {"\\u0000": "\\udfff"}),
        (b'"\\u00010"', "\x010"),
        (b'"\\u00e9\\u00E9"', "éé"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\uD83D\\uDE00"', "\U0001f600"),
        (b'"\\ud800\\udc00\\udbff\\udfff"', "\U00010000\U0010ffff"),
        (b'"\\ud7ff\\ue000"', "\ud7ff\ue000"),
        (b'"\\ufeff"', "\ufeff"),
        ('"\ufeff"'.encode(), "\ufeff"),
        (b'"\\ufffd\\ufffe\\uffff"', "\ufffd\ufffe\uffff"),
        ('"\u2028\u2029\u00a0\u0085\u200b"'.encode(), "\u2028\u2029\u00a0\u0085\u200b"),
        ('"\U0010ffff"'.encode(), "\U0010ffff"),
        (b'"null" ', "null"),
        (b'"NaN"', "NaN"),
        (b'["1e400","99999999999999999999","Infinity"]', ["1e400", "99999999999999999999", "Infinity"]),
        (b"[]", []),
        (b"{}", {}),
        (b"[[],{},[[]]]", [[], {}, [[]]]),
        (b'{"":{"":[]}}', {"": {"": []}}),
        (b' \t\r\n{ \t\r\n"a" \t\r\n: \t\r\n[ \t\r\n1 \t\r\n, \t\r\n2 ] \t\r\n} \t\r\n', {"a": [1, 2]}),
        (b'{"b":1,"a":2}', {"b": 1, "a": 2}),
        (b'{"__proto__":1,"constructor":2}', {"__proto__": 1, "constructor": 2}),
        (b"[1,1.0,true]", [1, 1.0, True]),
    ],
)
def test_a_valid_document_has_its_exact_value(body: bytes, value: JSON) -> None:
    """A valid document gives exactly its value: types, signs, order and code points."""
    assert exactly(loads(body)) == exactly(value)


def test_each_reading_gives_a_new_value() -> None:
    """Two results of parsing one body share no mutable objects."""
    body = b'{"a":[{}]}'
    first, second = loads(body), loads(body)
    assert first == second
    assert first is not second
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["a"] is not second["a"]


@pytest.mark.parametrize("bits", [*range(0, 2**63, 2**63 // 97)])
def test_doubles_are_kept_to_the_last_bit(bits: int) -> None:
    """A double written in its shortest form is read back to the same bits."""
    (number,) = struct.unpack("<d", struct.pack("<q", bits))
    if math.isfinite(number):
        assert struct.pack("<d", loads(repr(number).encode())) == struct.pack("<q", bits)


# --- unrepresentable values

STRINGS = [
    (b'"\\u0000"', "string_contains_nul"),
    (b'"a\\u0000"', "string_contains_nul"),
    (b'"\\u0000a"', "string_contains_nul"),
    (b'"\\u00000"', "string_contains_nul"),
    (b'"\\\\\\u0000"', "string_contains_nul"),
    (b'"\\n\\u0000\\n"', "string_contains_nul"),
    (b'"\\ud83d\\ude00\\u0000"', "string_contains_nul"),
    (b'"\\u0000\\ud800"', "string_contains_nul"),
    (b'"\\ud800"', "string_lone_surrogate"),
    (b'"\\uD800"', "string_lone_surrogate"),
    (b'"\\udbff"', "string_lone_surrogate"),
    (b'"\\uDBFF"', "string_lone_surrogate"),
    (b'"\\udc00"', "string_lone_surrogate"),
    (b'"\\udfff"', "string_lone_surrogate"),
    (b'"\\uDfFf"', "string_lone_surrogate"),
    (b'"\\uda00"', "string_lone_surrogate"),
    (b'"\\uDEad"', "string_lone_surrogate"),
    (b'"\\ud83d\\ud83d\\ude00"', "string_lone_surrogate"),
    (b'"\\ud83d\\ude00\\ude00"', "string_lone_surrogate"),
    (b'"\\ude00\\ud83d"', "string_lone_surrogate"),
    (b'"\\ud83d \\ude00"', "string_lone_surrogate"),
    (b'"\\ud83dx"', "string_lone_surrogate"),
    (b'"\\ud83d\\n"', "string_lone_surrogate"),
    (b'"\\ud83d\\u0041"', "string_lone_surrogate"),
    (b'"\\ud83d\\\\ude00"', "string_lone_surrogate"),
    (b'"\\\\\\ud800"', "string_lone_surrogate"),
    (b'"\\ud800\\u0000"', "string_lone_surrogate"),
    (b'"a\\udfff"', "string_lone_surrogate"),
]

NUMBERS = [
    (b"9223372036854775808", "integer_out_of_range"),
    (b"-9223372036854775809", "integer_out_of_range"),
    (b"9999999999999999999", "integer_out_of_range"),
    (b"-9999999999999999999", "integer_out_of_range"),
    (b"18446744073709551615", "integer_out_of_range"),
    (b"18446744073709551616", "integer_out_of_range"),
    (b"100000000000000000000", "integer_out_of_range"),
    (b"-100000000000000000000", "integer_out_of_range"),
    (b"1" + b"0" * 308, "integer_out_of_range"),
    (b"9" * 4300, "integer_out_of_range"),
    (b"9" * 4301, "integer_out_of_range"),
    (b"-" + b"9" * 100_000, "integer_out_of_range"),
    (b"1e400", "number_out_of_range"),
    (b"-1e400", "number_out_of_range"),
    (b"1E+400", "number_out_of_range"),
    (b"1e309", "number_out_of_range"),
    (b"1.7976931348623159e308", "number_out_of_range"),
    (b"1.797693134862315808e308", "number_out_of_range"),
    (b"-1.8e308", "number_out_of_range"),
    (b"0.1e310", "number_out_of_range"),
    (b"1e99999999999999999999999", "number_out_of_range"),
    (b"1.5e+9999", "number_out_of_range"),
    (b"9" * 400 + b".0", "number_out_of_range"),
    (b"9" * 400 + b"e0", "number_out_of_range"),
]

PLACES: list[tuple[bytes, bytes, str]] = [
    (b"", b"", ""),
    (b" \n", b" \n", ""),
    (b"[", b"]", "/0"),
    (b"[1,[],", b",2]", "/2"),
    (b'{"a":', b"}", "/a"),
    (b'{"a":{"b":[0,', b"]}}", "/a/b/1"),
    (b'{"":', b"}", "/"),
    (b'{"/":', b"}", "/~1"),
    (b'{"~":', b"}", "/~0"),
    (b'{"~1":', b"}", "/~01"),
    (b'{"a/b~c/":{"~~":', b"}}", "/a~1b~0c~1/~0~0"),
    ('{"é\U0001f600":'.encode(), b"}", "/é\U0001f600"),
    (b'{"\\ud83d\\ude00\\n":', b"}", "/\U0001f600\n"),
    (b'{"0":[', b"]}", "/0/0"),
    (b'{" ":', b"}", "/ "),
    (b'{"\\"":', b"}", '/"'),
    (b"[" * 64, b"]" * 64, "/0" * 64),
    (b'[0,1,2,3,4,5,6,7,8,9,10,{"x":"ok"},', b"]", "/12"),
    (b'{"a":{"b":[{}]},"c":', b"}", "/c"),
]


@pytest.mark.parametrize(("before", "after", "pointer"), PLACES)
def test_an_unrepresentable_value_is_pointed_at(
    subtests: pytest.Subtests, before: bytes, after: bytes, pointer: str
) -> None:
    """A value that cannot be stored is rejected with its code and its RFC 6901 pointer, at any depth."""
    for fragment, code in STRINGS + NUMBERS:
        with subtests.test(fragment=fragment[:100]):
            error = unrepresentable(before + fragment + after)
            assert (error.pointer, error.code) == (pointer, code)
            assert len(error.detail) < 200


@pytest.mark.parametrize(
    ("before", "after", "pointer"), [p for p in PLACES if not p[0].startswith(b"[" * 64)]
)
def test_an_unrepresentable_name_points_at_its_object(
    subtests: pytest.Subtests, before: bytes, after: bytes, pointer: str
) -> None:
    """A name that cannot be stored is rejected with the pointer of the object that contains it."""
    for fragment, code in STRINGS:
        with subtests.test(fragment=fragment):
            error = unrepresentable(before + b'{"ok":1,' + fragment + b":1e400}" + after)
            assert (error.pointer, error.code) == (pointer, code)


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        (b'["\\u0000",1e400]', "/0", "string_contains_nul"),
        (b'[1e400,"\\u0000"]', "/0", "number_out_of_range"),
        (b"[1e400,99999999999999999999]", "/0", "number_out_of_range"),
        (b"[99999999999999999999,1e400]", "/0", "integer_out_of_range"),
        (b'{"a":{"b":"\\ud800"},"c":1e400}', "/a/b", "string_lone_surrogate"),
        (b'{"a":{"b":"\\ud83d\\ude00"},"c":1e400}', "/c", "number_out_of_range"),
        (b'{"a":1e400,"\\u0000":1}', "/a", "number_out_of_range"),
        (b'{"\\u0000":1,"a":1e400}', "", "string_contains_nul"),
        (b'{"z":[1e400],"a":[1e400]}', "/z/0", "number_out_of_range"),
    ],
)
def test_the_first_unrepresentable_value_is_reported(body: bytes, pointer: str, code: str) -> None:
    """Of several values that cannot be stored, the first in the document is reported."""
    error = unrepresentable(body)
    assert (error.pointer, error.code) == (pointer, code)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"x"),
        (b"", b","),
        (b"", b'"'),
        (b"", b"\xff"),
        (b"\xef\xbb\xbf", b""),
        (b"[", b""),
        (b"[", b",]"),
        (b"[", b",NaN]"),
        (b"[", b"]]"),
        (b"[", b',"\\x"]'),
        (b"[", b',"\n"]'),
        (b"[", b',{"a":1,"a":1}]'),
        (b'{"a":', b',"a":1}'),
        (b'{"a":1,"a":', b"}"),
        (b"[" * 65, b"]" * 65),
        (b"[", b"," + b"[" * 64 + b"]" * 64 + b"]"),
    ],
)
def test_invalid_wins_over_unrepresentable(subtests: pytest.Subtests, before: bytes, after: bytes) -> None:
    """A document that is invalid anywhere is rejected as invalid even if an earlier value cannot be stored."""
    for fragment, code in STRINGS + NUMBERS:
        with subtests.test(fragment=fragment[:100]):
            assert unrepresentable(fragment).code == code
            invalid(before + fragment + after)


# --- depth


def nested(depth: int, kind: str) -> bytes:
    opening, closing = {
        "arrays": (b"[", b"]"),
        "objects": (b'{"a":', b"}"),
        "spaced": (b" [\n", b"\t]\r"),
        "beside tricky strings": (b'["]\\"]\\\\",', b',"[\\\\\\"["]'),
    }[kind]
    # The innermost level is the fragment itself.
    return opening * (depth - 1) + b"[]" + closing * (depth - 1)


@pytest.mark.parametrize("kind", ["arrays", "objects", "spaced", "beside tricky strings"])
def test_the_deepest_allowed_nesting(kind: str) -> None:
    """Nesting of 64 levels is accepted and of 65 rejected, whatever the levels consist of."""
    assert MAX_DEPTH == 64
    assert exactly(loads(nested(64, kind))) == exactly(json.loads(nested(64, kind)))
    assert "64" in invalid(nested(65, kind)).detail
    assert "64" in invalid(nested(900, kind)).detail


@pytest.mark.parametrize(
    "opening", [b"[", b'{"":', b'[{"a":', b'[1,{"a":[],"b":', b' [ "]" , ', b'["\\\\",', b'["\\"",']
)
def test_brackets_without_end_are_rejected_soon(opening: bytes) -> None:
    """Half a million brackets that never close are rejected as invalid, in bounded time."""
    brackets = opening.count(b"[") + opening.count(b"{")
    body = (opening * (500_000 // brackets))[:MEBIBYTE]
    started = time.thread_time()
    invalid(body)
    assert time.thread_time() - started < BOUND_SECONDS


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'"' + b"[" * 500_000 + b'"', "[" * 500_000),
        (b'"' + b"{" * 500_000 + b'"', "{" * 500_000),
        (b'"' + b'\\"[' * 300_000 + b'"', '"[' * 300_000),
        (b'"' + b"\\\\[" * 300_000 + b'"', "\\[" * 300_000),
        (b'["\\\\","' + b"[" * 100 + b'"]', ["\\", "[" * 100]),
        (b'["\\\\\\"","' + b"[" * 100 + b'"]', ['\\"', "[" * 100]),
        (b'{"' + b"{[" * 100 + b'":"' + b"[{" * 100 + b'"}', {"{[" * 100: "[{" * 100}),
        (b"[" + b"[]," * 100_000 + b"[]]", [[]] * 100_001),
        (b"[" + b"{}," * 100_000 + b"{}]", [{}] * 100_001),
        (b'["' + b'[","' * 100 + b'"]', ["["] * 100 + [""]),
    ],
    ids=lambda part: f"{len(part)} long",
)
def test_only_open_brackets_outside_strings_count(body: bytes, value: JSON) -> None:
    """Brackets within strings, and those that have closed again, do not count as nesting."""
    assert loads(body) == value


@pytest.mark.parametrize(
    "quote", [b'"\\\\"', b'"\\\\\\""', b'"a\\\\\\\\"', b'"]"', b'"\\"]\\""', b'"\\u005d]"']
)
def test_no_string_hides_brackets(quote: bytes) -> None:
    """Nesting is counted correctly beside strings with any ending and any brackets."""
    invalid((b"[" + quote + b",") * 65 + b"0" + b"]" * 65)
    assert loads((b"[" + quote + b",") * 64 + b"0" + b"]" * 64)


# --- bounded time


def filled(before: bytes, unit: bytes, after: bytes) -> bytes:
    """Repeat the unit until the body is as large as is accepted."""
    return before + unit * ((MEBIBYTE - len(before) - len(after)) // len(unit)) + after


LARGE: dict[str, Callable[[], bytes]] = {
    "digits": lambda: filled(b"", b"9", b""),
    "negative digits": lambda: filled(b"-", b"9", b""),
    "digits before a point": lambda: filled(b"", b"9", b".0"),
    "digits after a point": lambda: filled(b"0.", b"9", b""),
    "zeros after a point": lambda: filled(b"0.", b"0", b"1e1048560"),
    "halfway digits": lambda: filled(b"9007199254740993.", b"0", b"1"),
    "digits of an exponent": lambda: filled(b"1e", b"9", b""),
    "digits of a negative exponent": lambda: filled(b"1e-", b"9", b""),
    "zeros of an exponent": lambda: filled(b"1e", b"0", b"1"),
    "digits then an error": lambda: filled(b"[", b"9", b"x"),
    "many numbers then overflow": lambda: filled(b"[0", b",0", b",1e400]"),
    "many overflows": lambda: filled(b"[0", b",1e400", b"]"),
    "many wide integers": lambda: filled(b"[0", b",99999999999999999999", b"]"),
    "many integers of thousands of digits": lambda: filled(b"[0", b"," + b"9" * 5000, b"]"),
    "quotes": lambda: filled(b"", b'"', b""),
    "backslashes": lambda: filled(b"", b"\\", b""),
    "a string of backslashes": lambda: filled(b'"', b"\\\\", b'"'),
    "a string of backslashes without end": lambda: filled(b'["', b"\\\\", b'\\"]'),
    "a string of quotes": lambda: filled(b'"', b'\\"', b'"'),
    "a string without end": lambda: filled(b'"', b"a", b""),
    "many strings without brackets": lambda: filled(b'[""', b',""', b"]"),
    "nul escapes": lambda: filled(b'"', b"\\u0000", b'"'),
    "surrogate escapes": lambda: filled(b'"', b"\\ud800", b'"'),
    "surrogate pairs": lambda: filled(b'"', b"\\ud83d\\ude00", b'"'),
    "escaped escapes": lambda: filled(b'"', b"\\\\u0000", b'"'),
    "half escapes": lambda: filled(b'"', b"\\u", b'"'),
    "strings of pairs": lambda: filled(b'[""', b',"\\ud83d\\ude00"', b"]"),
    "objects then nul": lambda: filled(b"[{}", b",{}", b',"\\u0000"]'),
    "arrays": lambda: filled(b"[[]", b",[]", b"]"),
    "deep arrays": lambda: filled(b"[[]", b"," + b"[" * 63 + b"]" * 63, b"]"),
    "deep objects": lambda: filled(b"[[]", b"," + b'{"":' * 62 + b"{}" + b"}" * 62, b"]"),
    "closing brackets": lambda: filled(b"", b"]", b""),
    "closing then opening": lambda: b"]" * 500_000 + b"[" * 500_000,
    "opening then closing": lambda: b"[" * 500_000 + b"]" * 500_000,
    "brackets that do not match": lambda: filled(b"", b"[}", b""),
    "names": lambda: b"{" + b",".join(b'"%x":0' % i for i in range(100_000)) + b"}",
    "a name repeated at the end": lambda: b"{" + b",".join(b'"%x":0' % i for i in range(90_000)) + b',"0":1}',
    "one name": lambda: filled(b'{"":0', b',"":0', b"}"),
    "a long name": lambda: filled(b'{"', b"~", b'":1e400}'),
    "a long name repeated": lambda: b'{"' + b"k" * 520_000 + b'":0,"' + b"k" * 520_000 + b'":0}',
    "spaces": lambda: filled(b"", b" ", b""),
    "spaces before": lambda: filled(b"", b" ", b"1"),
    "spaces after": lambda: filled(b"1", b" ", b""),
    "spaces after, then an error": lambda: filled(b"1", b" ", b"x"),
    "lines": lambda: filled(b"[", b"\n", b"x"),
    "spaces within": lambda: filled(b"[0", b" ,\n0", b"]"),
    "zero bytes": lambda: filled(b"", b"\0", b""),
    "bad UTF-8 at the end": lambda: filled(b'"', "é".encode(), b'\xff"'),
    "bad UTF-8 throughout": lambda: filled(b"", b"\xff", b""),
    "byte order marks": lambda: filled(b"", b"\xef\xbb\xbf", b""),
    "constants": lambda: filled(b"[null", b",true", b",NaN]"),
    "letters": lambda: filled(b"", b"n", b""),
    "minus signs": lambda: filled(b"", b"-", b""),
    "commas": lambda: filled(b"[", b",", b"]"),
    "colons": lambda: filled(b"{", b":", b"}"),
}


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("shape", LARGE)
def test_the_largest_bodies_take_bounded_time(shape: str) -> None:
    """A body of 1 MiB, whatever its shape, is read or rejected in bounded time and in no other way."""
    body = LARGE[shape]()
    assert len(body) <= MEBIBYTE + 1
    started = time.thread_time()
    outcome(body)
    assert time.thread_time() - started < BOUND_SECONDS


def test_python_own_limit_on_digits_does_not_show() -> None:
    """An integer of any length is rejected by the same rule, on either side of Python's own limit."""
    errors = [unrepresentable(b'{"n":' + b"1" * digits + b"}") for digits in (20, 640, 4300, 4301, 1_000_000)]
    assert {(error.pointer, error.code, error.detail) for error in errors} == {
        ("/n", "integer_out_of_range", errors[0].detail)
    }


# --- properties

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values: st.SearchStrategy[JSON] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6),
    max_leaves=40,
)

tokens = st.sampled_from(
    [
        *[b"[", b"]", b"{", b"}", b",", b":", b" ", b"\n", b'"', b"\\", b"1", b"-", b"0", b".", b"e", b"+"],
        *[b'"a":', b'"b":', b'"a"', b'"\\u0061":', b'"":', b"[]", b"{}", b"null", b"true", b"false", b"NaN"],
        *[b"-Infinity", b"1e400", b"-0", b"1.5", b"9223372036854775807", b"9223372036854775808", b"9" * 30],
        *[b"\\u0000", b"\\ud800", b"\\udc00", b"\\u00e9", b"\\n", b'\\"', b"\\\\", b'"\\ud83d\\ude00"'],
        *[
            "é".encode(),
            "\U0001f600".encode(),
            b"\xff",
            b"\xef\xbb\xbf",
            b"\xc2\xa0",
            b"\0",
            b"[" * 64,
            b"]" * 64,
        ],
    ]
)
soups = st.lists(tokens, max_size=24).map(b"".join)


@st.composite
def nearly_json(draw: st.DrawFn) -> bytes:
    """Draw a valid document with one stretch of it removed, replaced or repeated."""
    body = draw(values.map(orjson.dumps))
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, min(len(body), start + 4)))
    middle = draw(tokens | st.binary(max_size=2) | st.just(body[start:end] * 2))
    return body[:start] + middle + body[end:]


class Refused(Exception):  # noqa: N818
    """A document that the reference parser rejects."""


def reference(body: bytes) -> object:
    """Parse a document slowly, by the rules for validity alone."""

    def reject(_: object) -> NoReturn:
        raise Refused

    def no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise Refused
        return dict(pairs)

    def depth(value: object) -> int:
        if isinstance(value, dict):
            return 1 + max(map(depth, value.values()), default=0)
        if isinstance(value, list):
            return 1 + max(map(depth, value), default=0)
        return 0

    try:
        # The numbers stay text: how large they may be is not a matter of validity.
        value: object = json.loads(
            body.decode(), parse_constant=reject, parse_int=str, parse_float=str, object_pairs_hook=no_repeats
        )
    except (ValueError, RecursionError):
        raise Refused from None
    if depth(value) > MAX_DEPTH:
        raise Refused
    return value


@settings(deadline=None)
@given(values)
def test_what_orjson_writes_is_read_back(value: JSON) -> None:
    """Any value that the contract allows, written by orjson, is read back exactly."""
    assert exactly(loads(orjson.dumps(value))) == exactly(value)
    assert exactly(loads(orjson.dumps(value, option=orjson.OPT_INDENT_2))) == exactly(value)


@settings(deadline=None)
@given(values, st.booleans(), st.sampled_from([None, 0, 3, "\t"]))
def test_what_the_standard_library_writes_is_read_back(
    value: JSON, ascii_only: bool, indent: int | str | None
) -> None:
    """Any value that the contract allows, written by the standard library, is read back exactly."""
    written = json.dumps(value, ensure_ascii=ascii_only, indent=indent, allow_nan=False)
    assert exactly(loads(written.encode())) == exactly(value)


@settings(deadline=None)
@given(st.binary(max_size=64) | soups | nearly_json())
@example(b"")
@example(b"\xef\xbb\xbf")
def test_any_bytes_are_read_or_rejected(body: bytes) -> None:
    """Any bytes give a value or one of the two errors, all parts of which can be sent in a response."""
    match outcome(body):
        case InvalidJson() as error:
            error.detail.encode()
            assert error.position is None or 0 <= error.position <= len(body.decode(errors="replace"))
        case UnrepresentableValue() as error:
            (error.detail + error.pointer).encode()
        case value:
            assert exactly(loads(orjson.dumps(value))) == exactly(value)


@pytest.mark.usefixtures("unmeasured")
@settings(deadline=None)
@given(st.binary(max_size=32) | soups | nearly_json())
def test_validity_agrees_with_the_standard_library(body: bytes) -> None:
    """Exactly the documents that the standard library rejects in strict mode are rejected as invalid."""
    try:
        reference(body)
    except Refused:
        invalid(body)
    else:
        assert not isinstance(outcome(body), InvalidJson)


@pytest.mark.usefixtures("unmeasured")
@settings(deadline=None)
@given(soups | nearly_json())
def test_what_is_read_means_the_same_to_another_reader(body: bytes) -> None:
    """Every accepted document is read by orjson too, with the same value."""
    value = outcome(body)
    if not isinstance(value, InvalidJson | UnrepresentableValue):
        assert exactly(orjson.loads(body)) == exactly(value)


@settings(deadline=None)
@given(
    st.lists(texts | st.integers(0, 4), max_size=8),
    st.sampled_from(STRINGS + NUMBERS),
    st.lists(values, max_size=3),
    st.booleans(),
)
def test_the_pointer_leads_to_the_value(
    path: list[str | int], culprit: tuple[bytes, str], siblings: list[JSON], ascii_only: bool
) -> None:
    """The pointer leads to the value that cannot be stored, wherever it is."""
    fragment, code = culprit
    for step in reversed(path):
        if isinstance(step, int):
            before = [json.dumps(index, ensure_ascii=ascii_only).encode() for index in range(step)]
            fragment = b"[" + b",".join([*before, fragment, *map(orjson.dumps, siblings)]) + b"]"
        else:
            members = {f"{step}{index}": sibling for index, sibling in enumerate(siblings)}
            written = json.dumps({**members, step: 0}, ensure_ascii=ascii_only).encode()
            fragment = written.removesuffix(b"0}") + fragment + b"}"
    error = unrepresentable(fragment)
    assert error.code == code
    assert not error.pointer or error.pointer.startswith("/")
    assert steps_of(error.pointer) == [str(step) for step in path]


@settings(deadline=None)
@given(st.text(alphabet='[]{}"\\,:a0 ', max_size=200))
def test_depth_is_counted_as_the_grammar_nests(text: str) -> None:
    """Brackets, quotes and backslashes in any order, close to the limit, are judged as by the reference parser."""
    for levels in (0, MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH):
        for inner in (text, json.dumps(text)):
            body = ("[" * levels + inner + "]" * levels).encode()
            try:
                reference(body)
            except Refused:
                invalid(body)
            else:
                assert not isinstance(outcome(body), InvalidJson)
