"""An ASGI client that sends headers as raw bytes: repeated, in any spelling, and without additions."""

import json as json_module
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from tests import asgi
from tests.asgi import call, http_scope

Header = tuple[bytes | str, bytes | str]
ADDRESS: Final = "203.0.113.5"


@dataclass(frozen=True)
class Answer:
    """The response of the app."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        """Return the body, parsed as JSON."""
        return json_module.loads(self.body)

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for each, value in self.headers if each == name]

    def header(self, name: str) -> str | None:
        """Return the value of a header that must not be repeated."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def code(self) -> str | None:
        """The problem code of an error response."""
        if self.header("content-type") != "application/problem+json":
            return None
        code = self.json()["code"]
        assert isinstance(code, str)
        return code

    @property
    def cookies(self) -> dict[str, "SetCookie"]:
        """Return the cookies that the response sets, the last one of each name."""
        cookies = [SetCookie.read(value) for value in self.all("set-cookie")]
        return {each.name: each for each in cookies}


@dataclass(frozen=True)
class SetCookie:
    """One ``Set-Cookie`` header; attributes in lower case, flags with an empty value."""

    name: str
    value: str
    attributes: dict[str, str]

    @staticmethod
    def read(text: str) -> "SetCookie":
        """Parse a ``Set-Cookie`` header (RFC 6265 §4.1.1)."""
        pair, *rest = text.split("; ")
        name, _, value = pair.partition("=")
        attributes = {}
        for each in rest:
            key, _, content = each.partition("=")
            assert key.lower() not in attributes, f"{key} came twice"
            attributes[key.lower()] = content
        return SetCookie(name, value, attributes)


async def ask(
    app: Any,
    method: str,
    path: str,
    headers: Iterable[Header] = (),
    *,
    json: Any = None,
    body: bytes = b"",
    content_type: str = "application/json",
    query: str = "",
    address: str = ADDRESS,
    scheme: str = "http",
    http_version: str = "1.1",
) -> Answer:
    """Send one request to an ASGI app and return its response; exceptions of the app propagate.

    With an HTTP version other than 1.1 the body is sent without ``Content-Length``, which is optional there.
    """
    raw = [(_bytes(name).lower(), _bytes(value)) for name, value in headers]
    if json is not None:
        body = json_module.dumps(json).encode()
    if body:
        if content_type:
            raw.append((b"content-type", content_type.encode()))
        if http_version == "1.1":
            raw.append((b"content-length", b"%d" % len(body)))
    scope = http_scope(
        path,
        method,
        raw,
        raw_path=path.encode(),
        http_version=http_version,
        scheme=scheme,
        query_string=query.encode(),
        client=(address, 40_000),
    )
    start, *rest = await call(app, scope, asgi.body(body))
    return Answer(
        start["status"],
        tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]),
        b"".join(message.get("body", b"") for message in rest),
    )


def bearer(token: str) -> Header:
    """Return an ``Authorization: Bearer`` header."""
    return ("authorization", f"Bearer {token}")


def cookie(**values: str) -> Header:
    """Return a ``Cookie`` header."""
    return ("cookie", "; ".join(f"{name}={value}" for name, value in values.items()))


def refuses(answer: Answer, code: str = "invalid_token") -> None:
    """Assert that a response is the uniform 401, which does not disclose the reason."""
    assert answer.status == 401, answer
    assert answer.code == code, answer
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code", "request_id"}
    assert problem["status"] == 401
    challenge = answer.header("www-authenticate")
    assert challenge is not None
    assert challenge.startswith('Bearer realm="projkit"')
    if code == "invalid_token":
        assert challenge == 'Bearer realm="projkit", error="invalid_token"'
        assert problem["detail"] in {"The access token is not valid", "Authorization must be a Bearer token"}
    assert answer.header("cache-control") == "private, no-store"


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")
