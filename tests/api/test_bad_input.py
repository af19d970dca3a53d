"""Bad input is rejected with the error format of the API, and changes nothing."""

import asyncio
import json
from http.client import HTTPConnection
from typing import Any
from uuid import UUID, uuid4

import pytest

from projkit import ProjKit
from tests.conftest import Client, OpenClient, serving, settings_for, token_for
from tests.corpora import corpus_file

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"
JSON = {"Content-Type": "application/json"}


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Check that a response is a problem of the contract's format, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"].startswith("urn:projkit:problem:")
    assert problem["request_id"] == response.headers["x-request-id"]
    assert {"title", "detail", "instance"} <= problem.keys()
    assert ("errors" in problem) == (status == 422)
    return problem


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"name": ""}, "/name", "string_too_short"),
        ({"name": "   "}, "/name", "string_too_short"),
        ({"name": "x" * 201}, "/name", "string_too_long"),
        ({"name": 7}, "/name", "string_type"),
        ({"name": None}, "/name", "string_type"),
        ({"description": "x" * 10_001}, "/description", "string_too_long"),
        ({"status": "done"}, "/status", "enum"),
        ({"status": 1}, "/status", "enum"),
        ({"priority": "LOW"}, "/priority", "enum"),
        ({"tags": ["a"] * 2}, "/tags", None),
        ({"tags": [""]}, "/tags/0", "string_too_short"),
        ({"tags": ["x" * 51]}, "/tags/0", "string_too_long"),
        ({"tags": [str(n) for n in range(51)]}, "/tags", "too_long"),
        ({"tags": "a"}, "/tags", None),
        ({"tags": {"a": 1}}, "/tags", None),
        ({"start_date": "2026-13-01"}, "/start_date", None),
        ({"start_date": "2026-01-01T00:00:00Z"}, "/start_date", None),
        ({"start_date": 20260101}, "/start_date", None),
        ({"due_date": "0000-01-01"}, "/due_date", None),
        ({"start_date": "2026-01-02", "due_date": "2026-01-01"}, "/due_date", "due_before_start"),
        ({"metadata": []}, "/metadata", "dict_type"),
        ({"metadata": {"a": "x" * 16_384}}, "/metadata", None),
        ({"external_id": ""}, "/external_id", None),
        ({"external_id": "x" * 201}, "/external_id", "string_too_long"),
        ({"colour": "red"}, "/colour", "extra_forbidden"),
        ({"a/b~c": 1}, "/a~1b~0c", "extra_forbidden"),
        ({"version": 1}, "/version", "extra_forbidden"),
    ],
)
async def test_each_field_has_its_limits(
    client: Client, change: dict[str, Any], pointer: str, code: str | None
) -> None:
    """An invalid field gets a 422 with a pointer to it, and nothing is stored."""
    response = await client.post(URL, json={"name": "A", **change})
    problem = assert_problem(response, 422, "validation_error")
    assert [each["pointer"] for each in problem["errors"]] == [pointer]
    assert code is None or problem["errors"][0]["code"] == code
    assert (await client.get(URL)).json()["items"] == []


async def test_all_invalid_fields_are_reported(client: Client) -> None:
    """Several invalid fields are reported in one response."""
    problem = assert_problem(await client.post(URL, json={"status": 1, "tags": 2}), 422, "validation_error")
    assert {each["pointer"] for each in problem["errors"]} == {"/name", "/status", "/tags"}
    assert problem["detail"] == "3 fields are invalid"


@pytest.mark.parametrize("content", [b"[]", b"1", b'"x"', b"null", b"true"])
async def test_bodies_that_are_not_objects(client: Client, content: bytes) -> None:
    """JSON that is not an object gets a 422."""
    for method, path in (("POST", URL), ("PUT", f"{URL}/{uuid4()}"), ("PATCH", f"{URL}/{uuid4()}")):
        assert_problem(
            await client.request(method, path, content=content, headers=JSON), 422, "validation_error"
        )


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"{}}", b"\xef\xbb\xbf{}", b'{"name":"\xff"}', b'{"name":"A","name":"B"}', b'{"a":NaN}',
        b'{"a":-Infinity}', b"[" * 65 + b"]" * 65, b"[" * 100_000, b"{'name':1}", b'{"name":"A",}', b"// x\n{}",
        b'{"metadata":{"a":1,"\\u0061":2}}', b'{"name":"\xed\xa0\x80"}', '{"name":"A"}'.encode("utf-16"),
    ],
)  # fmt: skip
async def test_invalid_json(client: Client, content: bytes) -> None:
    """A body that RFC 8259 or the contract's stricter rules reject gets a 400."""
    assert_problem(await client.post(URL, content=content, headers=JSON), 400, "invalid_json")


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        (b'{"name":"a\\u0000b"}', "/name"),
        (b'{"name":"\\ud800"}', "/name"),
        (b'{"name":"A","metadata":{"a":[0,"\\udc00"]}}', "/metadata/a/1"),
        (b'{"name":"A","metadata":{"\\u0000":1}}', "/metadata"),
        (b'{"name":"A","metadata":{"n":9223372036854775808}}', "/metadata/n"),
        (b'{"name":"A","metadata":{"n":-9223372036854775809}}', "/metadata/n"),
        (b'{"name":"A","metadata":{"n":1e400}}', "/metadata/n"),
    ],
)
async def test_values_that_cannot_be_stored(client: Client, content: bytes, pointer: str) -> None:
    """U+0000, lone surrogates and numbers beyond 64 bits get a 422 with a pointer to them."""
    problem = assert_problem(await client.post(URL, content=content, headers=JSON), 422, "validation_error")
    assert len(problem["errors"]) == 1
    assert problem["errors"][0]["pointer"] == pointer


async def test_extreme_values_are_stored_exactly(client: Client) -> None:
    """The largest integers, deep metadata and every kind of number are stored exactly by both databases."""
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    metadata = {
        "max": 2**63 - 1,
        "min": -(2**63),
        "pi": 3.141592653589793,
        "small": 5e-324,
        "deep": deep,
        "": {"": ""},
    }
    project = await client.project(metadata=metadata, description="x" * 10_000)
    got = (await client.get(f"{URL}/{project['id']}")).json()
    assert got["metadata"] == metadata
    assert isinstance(got["metadata"]["max"], int)


async def test_naughty_strings_are_stored_exactly(client: Client, naughty_strings: list[str]) -> None:
    """Every naughty string is either stored exactly or rejected with a 422."""
    for text in naughty_strings:
        fields = {"name": "A", "description": text, "metadata": {text: text}}
        response = await client.post(URL, json=fields)
        if "\0" in text:
            assert_problem(response, 422, "validation_error")
            continue
        assert response.status_code == 201, text
        got = (await client.get(response.headers["location"])).json()
        assert (got["description"], got["metadata"]) == (text, {text: text})
        if text.strip() and len(text.strip()) <= 200:
            named = await client.patch(response.headers["location"], json={"name": text})
            assert named.status_code == 200, text
            assert (await client.get(URL, params={"q": text[:200]})).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "good"),
    [
        ("application/json", True), ("Application/JSON", True), ("application/json; charset=utf-8", True),
        ('application/json;charset="UTF-8"', True), ("application/json; charset=latin-1", False),
        ("text/plain", False), ("application/jsonx", False), ("", False), ("multipart/form-data", False),
        ("application/merge-patch+json", False), ("application/x-www-form-urlencoded", False),
    ],
)  # fmt: skip
async def test_content_types(client: Client, content_type: str, good: bool) -> None:
    """Only JSON in UTF-8 is accepted."""
    response = await client.post(URL, content=b'{"name":"A"}', headers={"Content-Type": content_type})
    if good:
        assert response.status_code == 201
    else:
        assert_problem(response, 415, "unsupported_media_type")


async def test_missing_content_type(client: Client) -> None:
    """A body without a content type gets a 415."""
    assert_problem(await client.post(URL, content=b'{"name":"A"}'), 415, "unsupported_media_type")


@pytest.mark.parametrize("declared", [True, False])
async def test_large_bodies(open_client: OpenClient, declared: bool) -> None:
    """A body over the limit gets a 413, whether its length is declared or counted as it arrives."""
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 1024
            yield b" " * 1024

    async with open_client(max_body_bytes=4096) as client:
        content: Any = b" " * 5000 if declared else chunks()
        response = await client.post(URL, content=content, headers=JSON)
        assert_problem(response, 413, "content_too_large")
        assert "connection" not in response.headers
        fits = b'{"name":"A"}'.ljust(4096)
        assert (await client.post(URL, content=fits, headers=JSON)).status_code == 201


async def test_the_rest_of_a_huge_body_is_not_read(open_client: OpenClient) -> None:
    """The rest of a body that is far too large is not read, and the connection is closed."""
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1_048_576

    async with open_client() as client:
        response = await client.post(URL, content=chunks(), headers=JSON)
        assert_problem(response, 413, "content_too_large")
        assert response.headers["connection"] == "close"
        assert sent < 32


def test_a_client_that_writes_first_receives_the_413(sqlite_url: str) -> None:
    """A client that writes its whole body before it reads still receives the 413."""
    settings = settings_for(sqlite_url)
    headers = {"Authorization": f"Bearer {token_for(settings, 'alice')}", **JSON}
    with serving(ProjKit(settings)) as url:
        for size in (1_048_577, 4_000_000, 8_000_000):
            connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
            connection.request("POST", URL, b" " * size, headers)
            assert connection.getresponse().status == 413
            connection.close()


async def test_a_body_that_stalls(open_client: OpenClient) -> None:
    """A body that stalls gets a 408 within the request timeout."""

    async def stall() -> Any:
        yield b'{"name":'
        await asyncio.sleep(30)

    async with open_client(request_timeout_seconds=0.2) as client:
        response = await client.post(URL, content=stall(), headers=JSON)
        assert_problem(response, 408, "request_timeout")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/api",
        "/api/v1",
        "/api/v1/",
        f"{URL}/",
        "/api/v1/project",
        f"{URL}//",
        f"{URL}/stats",
        "/API/v1/projects",
    ],
)
async def test_unknown_paths(client: Client, path: str) -> None:
    """A nonexistent path gets a 404, before credentials are required."""
    problem = assert_problem(await client.get(path, headers={"Authorization": "nonsense"}), 404, "not_found")
    assert problem["instance"] == (path or "/")


@pytest.mark.parametrize(
    "identifier",
    ["1", "not-a-uuid", "{}", "00000000000000000000000000000000", "%00", "..%2f", "é", "x" * 5000],
)
async def test_malformed_ids(client: Client, identifier: str) -> None:
    """A malformed id gets a 404 on every route, whatever the body."""
    for method, path in (("GET", ""), ("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/archive")):
        response = await client.request(method, f"{URL}/{identifier}{path}", content=b"{")
        assert_problem(response, 404, "not_found")


async def test_an_id_may_be_upper_case(client: Client) -> None:
    """UUIDs are case-insensitive (RFC 9562 §4)."""
    project = await client.project()
    assert (await client.get(f"{URL}/{project['id'].upper()}")).json() == project


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", URL, "GET, HEAD, OPTIONS, POST"),
        ("POST", f"{URL}/{UUID(int=7)}", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("GET", f"{URL}/{UUID(int=7)}/archive", "OPTIONS, POST"),
        ("PUT", f"{URL}/stats/summary", "GET, HEAD, OPTIONS"),
        ("POST", "/api/v1/health/live", "GET, HEAD, OPTIONS"),
        ("TRACE", URL, "GET, HEAD, OPTIONS, POST"),
        ("BREW", URL, "GET, HEAD, OPTIONS, POST"),
    ],
)
async def test_wrong_methods(client: Client, method: str, path: str, allowed: str) -> None:
    """An unsupported method gets a 405 with the supported ones, before credentials are required."""
    response = await client.request(method, path, headers={"Authorization": "nonsense"})
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allowed


async def test_precedence_of_errors(open_client: OpenClient) -> None:
    """If several errors apply, the status is the first of 404, 405, 401, 403, 415, 413, 400, 422."""
    async with open_client(None, max_body_bytes=1024) as client:
        reader = {"Authorization": f"Bearer {token_for(client.kit_settings, 'r', ('projects:read',))}"}
        writer = {"Authorization": f"Bearer {token_for(client.kit_settings, 'w')}"}
        steps: list[tuple[int, str, str, dict[str, str], bytes]] = [
            (404, "DELETE", "/nowhere", {}, b"{" * 5000),
            (405, "DELETE", URL, {}, b"{" * 5000),
            (401, "POST", URL, {}, b"{" * 5000),
            (403, "POST", URL, reader, b"{" * 5000),
            (415, "POST", URL, writer, b"{" * 5000),
            (413, "POST", URL, {**writer, **JSON}, b"{" * 5000),
            (400, "POST", URL, {**writer, **JSON}, b"{"),
            (422, "POST", URL, {**writer, **JSON}, b"{}"),
            (201, "POST", URL, {**writer, **JSON}, json.dumps({"name": "A"}).encode()),
        ]
        for status, method, path, headers, content in steps:
            response = await client.request(method, path, headers=headers, content=content)
            assert response.status_code == status


@pytest.fixture
def naughty_strings() -> list[str]:
    """Return the Big List of Naughty Strings, and a few more."""
    own = [
        "", "undefined", "\u202etest", "\ufeff", "Ω≈ç√∫µ≤≥÷", "ﷺ", "👩‍👩‍👧", "Z\u032e\u031eA\u0325", "\u2028",
        "1;DROP TABLE projects", "' OR 1=1 -- 1", "<script>", "$HOME", "%s%n", "\x01\x7f\x80\x9f", "a\0b", "\\", '"',
    ]  # fmt: skip
    corpus: list[str] = json.loads(corpus_file("blns/blns.json").read_text())
    return own + corpus


async def test_the_detail_for_a_body_that_is_no_object(client: Client) -> None:
    """The error for a body that is not an object uses JSON's terms instead of Python's."""
    response = await client.post("/api/v1/projects", json=[])
    assert response.status_code == 422
    assert response.json()["errors"] == [
        {"pointer": "", "code": "model_type", "detail": "Must be a JSON object"}
    ]
