"""Requests as bytes: headers may come twice, in any spelling, and nothing is added to them."""

import json as json_module
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Header = tuple[bytes | str, bytes | str]
ADDRESS: Final = "203.0.113.5"


@dataclass(frozen=True)
class Answer:
    """What the app answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json_module.loads(self.body)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for found, value in self.headers if found == name]

    def header(self, name: str) -> str | None:
        """The value of a header that may come once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def code(self) -> str | None:
        """The code of a failure."""
        if self.header("content-type") != "application/problem+json":
            return None
        code = self.json()["code"]
        assert isinstance(code, str)
        return code

    @property
    def cookies(self) -> dict[str, "SetCookie"]:
        """What ``Set-Cookie`` says, the last one of each name."""
        found = [SetCookie.read(value) for value in self.all("set-cookie")]
        return {each.name: each for each in found}


@dataclass(frozen=True)
class SetCookie:
    """One ``Set-Cookie`` header; attributes in lower case, flags with an empty value."""

    name: str
    value: str
    attributes: dict[str, str]

    @staticmethod
    def read(text: str) -> "SetCookie":
        """Takes the header apart (RFC 6265 §4.1.1)."""
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
    """Sends one request to an ASGI app and gives its answer; whatever the app raises is raised.

    With another protocol than HTTP/1.1 a body's length is not announced, as it need not be there.
    """
    raw = [(_bytes(name).lower(), _bytes(value)) for name, value in headers]
    if json is not None:
        body = json_module.dumps(json).encode()
    if body:
        if content_type:
            raw.append((b"content-type", content_type.encode()))
        if http_version == "1.1":
            raw.append((b"content-length", b"%d" % len(body)))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": http_version,
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": raw,
        "client": (address, 40_000),
        "server": ("testserver", 80),
    }
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    sent: list[Mapping[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    return Answer(
        start["status"],
        tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]),
        b"".join(message.get("body", b"") for message in rest),
    )


def bearer(token: str) -> Header:
    """The header that a program sends."""
    return ("authorization", f"Bearer {token}")


def cookie(**values: str) -> Header:
    """The header that a browser sends."""
    return ("cookie", "; ".join(f"{name}={value}" for name, value in values.items()))


def refuses(answer: Answer, code: str = "invalid_token") -> None:
    """Holds an answer against the one form that a refusal of credentials has, and that tells nothing of the reason."""
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
