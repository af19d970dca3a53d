"""Cross-site request forgery: a request authenticated by a cookie must pass all three rules."""

import base64
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from projkit import ProjKit
from projkit.auth.csrf import session_binding
from projkit.auth.session_service import Client, IssuedTokens
from projkit.http.routing import Endpoint
from projkit.testing.internals import Internals
from tests.auth import forge
from tests.auth.asgi_client import Answer, Header, ask, bearer
from tests.auth.conftest import kit_with_keys
from tests.auth.users import AUTH, PROJECTS, SAME_ORIGIN, auth_services

pytestmark = pytest.mark.anyio

NOTHING: Final = f"{PROJECTS}/00000000-0000-7000-8000-000000000000"
ALLOWED: Final = "https://app.example.com"
ORIGINS: Final[dict[str | None, bool]] = {
    None: False,
    ALLOWED: True,
    "https://other.example.com:8443": True,
    "https://kit.example.com": True,  # PUBLIC_URL's own
    "https://kit.example.com/under": False,
    "https://app.example.com:443": False,
    "http://app.example.com": False,
    "https://app.example.com:8443": False,
    "https://APP.example.com": False,
    "https://app.example.com/": False,
    "https://app.example.com.evil.example": False,
    "https://evil.example/https://app.example.com": False,
    "https://evilapp.example.com": False,
    "app.example.com": False,
    "https://evil.example": False,
    "http://testserver": False,  # what Host says
    "null": False,
    "": False,
    "*": False,
    f"{ALLOWED}, {ALLOWED}": False,
    f"{ALLOWED} https://evil.example": False,
}
SITES: Final[dict[str | None, bool]] = {
    None: False, "same-origin": True, "none": True, "same-site": False, "cross-site": False, "Same-Origin": False,
    "": False,
    "same-origin, cross-site": False,
}  # fmt: skip
CONTENT_TYPES: Final[dict[str | None, bool]] = {
    "application/json": True, "application/json; charset=utf-8": True, "Application/JSON": True,
    "application/merge-patch+json": True, "text/plain": False, "application/x-www-form-urlencoded": False,
    "multipart/form-data; boundary=x": False, None: False, "text/plain; application/json": False,
    "application/jsonp": False,
    "application/json, text/plain": False,
}  # fmt: skip
TOKENS: Final = ("both", "neither", "header alone", "cookie alone", "two that differ", "of another session")
WAYS: Final = ("session in auth_token", "no session in auth_token", "legacy in access_token")


@pytest.fixture(scope="module")
async def kit(
    anyio_backend: str, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ProjKit]:
    """A kit that pages of two other origins and of its own may use."""
    origins = {
        "allowed_origins": [ALLOWED, "https://other.example.com:8443"], "public_url": "https://kit.example.com/under",
    }  # fmt: skip
    async with kit_with_keys(tmp_path_factory.mktemp("csrf"), sqlite_template, **origins) as kit:
        yield kit


async def open_session(kit: ProjKit) -> IssuedTokens:
    """A session of alice's."""
    client = Client("203.0.113.5", "tests")
    scopes = ("projects:read", "projects:write")
    return await auth_services(kit).sessions.open("alice", scopes, "", "cookie", client)


async def credentials(kit: ProjKit, way: str) -> tuple[str, str]:
    """A cookie that authenticates alice, and her CSRF value."""
    if way == WAYS[0]:
        issued = await open_session(kit)
        return f"auth_token={issued.access_token}", issued.csrf_token
    value = auth_services(kit).csrf.issue("subject:0::alice")
    return (f"auth_token={forge.token()}" if way == WAYS[1] else f"access_token={forge.legacy()}"), value


def shown(
    variant: str, value: str, other: str, *, header: str = "x-csrf-token", name: str = "csrf_token"
) -> list[Header]:
    """Return the headers that carry a CSRF token."""
    in_header, in_cookie = {
        "both": (value, value), "neither": (None, None), "header alone": (value, None), "cookie alone": (None, value),
        "two that differ": (value, other), "of another session": (other, other),
    }[variant]  # fmt: skip
    sent: list[Header] = [] if in_header is None else [(header, in_header)]
    return sent if in_cookie is None else [*sent, ("cookie", f"{name}={in_cookie}")]


def refuses(answer: Answer, rule: str) -> None:
    """Assert that a response is a 403 that names the rule."""
    assert (answer.status, answer.code) == (403, "csrf_failed"), answer
    assert answer.json()["rule"] == rule
    assert answer.header("www-authenticate") is None
    assert answer.header("cache-control") == "private, no-store"


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("way", WAYS)
async def test_the_matrix(kit: ProjKit, way: str, origin: str | None) -> None:
    """Only combinations that satisfy all three rules pass; an error names the first rule that fails."""
    credential, value = await credentials(kit, way)
    other = auth_services(kit).csrf.issue("session:another")
    for site, content_type, token in itertools.product(SITES, CONTENT_TYPES, TOKENS):
        headers: list[Header] = [("cookie", credential), *shown(token, value, other)]
        headers += [] if origin is None else [("origin", origin)]
        headers += [] if site is None else [("sec-fetch-site", site)]
        answer = await ask(kit, "PATCH", NOTHING, headers, body=b"{}", content_type=content_type or "")
        if not (SITES[site] or ORIGINS[origin]):
            refuses(answer, "origin")
        elif not CONTENT_TYPES[content_type]:
            refuses(answer, "content_type")
        elif token != "both":
            refuses(answer, "token")
        else:
            assert answer.code == "not_found", answer


UNSAFE: Final = ("POST", "PUT", "PATCH", "DELETE")


def asking(endpoint: Endpoint) -> tuple[str, dict[str, Any]]:
    """A path of the endpoint and a body for it."""
    path = endpoint.path.replace("{project_id}", NOTHING.rpartition("/")[2]).replace("{session_id}", "x" * 43)
    return path, {} if endpoint.body is None else {"json": {}}


@pytest.mark.parametrize("way", WAYS)
async def test_every_route(kit: ProjKit, way: str) -> None:
    """Every unsafe route of the live table is checked if a cookie authenticates, and no safe one is."""
    credential, value = await credentials(kit, way)
    guarded = 0
    for endpoint in Internals(kit).application.table.endpoints:
        path, content = asking(endpoint)
        answer = await ask(kit, endpoint.method, path, [("cookie", credential)], **content)
        if endpoint.public:
            continue
        if endpoint.method not in UNSAFE:
            assert answer.code in {None, "insufficient_scope", "not_found"}, answer
            continue
        guarded += 1
        refuses(answer, "origin")
        refuses(
            await ask(kit, endpoint.method, path, [("cookie", credential), SAME_ORIGIN], **content), "token"
        )
        cross = [
            ("cookie", f"{credential}; csrf_token={value}"),
            ("x-csrf-token", value),
            ("origin", "https://evil.example"),
        ]
        refuses(await ask(kit, endpoint.method, path, cross, **content), "origin")
    assert guarded >= 9


async def test_bearer_is_exempt_where_it_authenticates(kit: ProjKit) -> None:
    """Credentials that no browser adds by itself need no CSRF token; an invalid Bearer token does not exempt
    a cookie.
    """
    cross: list[Header] = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]
    cookie = ("cookie", f"auth_token={forge.token()}")
    for more in ([], [cookie], [("cookie", f"access_token={forge.legacy()}; csrf_token=x")]):
        for token in (forge.token(), forge.legacy(), (await open_session(kit)).access_token):
            answer = await ask(kit, "PATCH", NOTHING, [bearer(token), *cross, *more], json={})
            assert answer.code == "not_found", answer
            answer = await ask(
                kit, "PATCH", NOTHING, [bearer(token), *more], body=b"{}", content_type="text/plain"
            )
            assert answer.code == "unsupported_media_type", answer
    for value in ("Bearer", "Bearer x", "Basic YTpi", "", forge.token()):
        answer = await ask(kit, "PATCH", NOTHING, [("authorization", value), cookie, SAME_ORIGIN], json={})
        assert answer.code == "invalid_token", answer
    refuses(
        await ask(kit, "PATCH", NOTHING, [("x-authorization", f"Bearer {forge.token()}"), cookie], json={}),
        "origin",
    )


async def test_unknown_methods(kit: ProjKit) -> None:
    """No spelling or overriding of the method leads past the rules."""
    cookie = ("cookie", f"auth_token={forge.token()}")
    for method in ("post", "PoSt", "POST ", "LINK", "PROPFIND", "QUERY", "", "GET\0"):
        assert (await ask(kit, method, PROJECTS, [cookie], json={"name": "A"})).status == 405
    for name in ("x-http-method-override", "x-http-method", "x-method-override"):
        refuses(await ask(kit, "POST", PROJECTS, [cookie, (name, "GET")], json={"name": "A"}), "origin")
        assert (
            await ask(kit, "GET", PROJECTS, [cookie, (name, "DELETE")], query="_method=DELETE")
        ).status in {200, 422}


async def test_origin_is_never_compared_with_host(kit: ProjKit) -> None:
    """A ``Host`` header that equals ``Origin`` proves nothing."""
    credential, value = await credentials(kit, WAYS[0])
    mine = [("cookie", credential), *shown("both", value, "")]
    for host in ("evil.example", "testserver", "app.example.com", "kit.example.com"):
        for name in ("host", "x-forwarded-host", "forwarded"):
            for scheme in ("http", "https"):
                sent = [
                    *mine,
                    (name, f"host={host}" if name == "forwarded" else host),
                    ("origin", f"{scheme}://{host}"),
                ]
                answer = await ask(kit, "PATCH", NOTHING, sent, json={})
                if f"{scheme}://{host}" in {ALLOWED, "https://kit.example.com"}:
                    assert answer.code == "not_found"
                else:
                    refuses(answer, "origin")
    for name in ("referer", "access-control-request-method", "x-requested-with"):
        refuses(await ask(kit, "PATCH", NOTHING, [*mine, (name, f"{ALLOWED}/page")], json={}), "origin")


@pytest.mark.parametrize(
    ("twice", "rule"),
    [
        ([("origin", ALLOWED), ("origin", ALLOWED)], "origin"),
        ([("origin", ALLOWED), ("origin", "https://evil.example")], "origin"),
        ([("sec-fetch-site", "none"), ("sec-fetch-site", "none")], "origin"),
        ([("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], "origin"),
        ([SAME_ORIGIN, ("x-csrf-token", "{}"), ("x-csrf-token", "{}")], "token"),
        ([SAME_ORIGIN, ("x-csrf-token", "{}, {}")], "token"),
        ([SAME_ORIGIN, ("x-csrf-token", "{}"), ("cookie", "csrf_token={}")], "token"),
        ([SAME_ORIGIN, ("x-csrf-token", "{}"), ("cookie", "csrf_token=x")], "token"),
        ([SAME_ORIGIN, ("content-type", "text/plain"), ("x-csrf-token", "{}")], "content_type"),
    ],
)  # fmt: skip
async def test_what_comes_twice(kit: ProjKit, twice: list[Header], rule: str) -> None:
    """A repeated header or cookie of the rules is rejected, even if both values are right."""
    credential, value = await credentials(kit, WAYS[0])
    sent = [(name, str(text).replace("{}", value)) for name, text in twice]
    mine = ("cookie", f"{credential}; csrf_token={value}")
    refuses(await ask(kit, "PATCH", NOTHING, [mine, *sent], json={}), rule)


async def test_bodies_by_their_announcement(kit: ProjKit) -> None:
    """A body of unknown length must be JSON as well; without a body its type does not matter."""
    credential, value = await credentials(kit, WAYS[0])
    mine = [("cookie", credential), *shown("both", value, ""), SAME_ORIGIN]
    for announced in (
        [("transfer-encoding", "chunked")],
        [("content-length", "1")],
        [("content-length", "00")],
    ):
        for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
            sent = [*mine, *announced, ("content-type", content_type)]
            refuses(await ask(kit, "POST", f"{NOTHING}/archive", sent), "content_type")
    for announced in ([], [("content-length", "0")]):
        for content_type in ("text/plain", "application/x-www-form-urlencoded"):
            answer = await ask(
                kit, "POST", f"{NOTHING}/archive", [*mine, *announced, ("content-type", content_type)]
            )
            assert answer.code == "not_found"
            refuses(
                await ask(
                    kit, "POST", f"{NOTHING}/archive", [("cookie", credential), SAME_ORIGIN, *announced]
                ),
                "token",
            )


async def test_values(kit: ProjKit) -> None:
    """Only the token issued for this session or subject passes: no part of it, no other spelling, no other token."""
    for way in WAYS:
        credential, value = await credentials(kit, way)
        guard = auth_services(kit).csrf
        others = [
            guard.issue(session_binding("other")), guard.issue("subject:0::bob"), guard.issue("subject:1:a:lice"),
            guard.issue(""), guard.issue("subject:0::alice" if way == WAYS[0] else session_binding("alice")),
            value[:-1],
            value + "A", "A" + value, value.swapcase(), value[::-1], "", "x", "=", "A" * len(value), value[:22],
            "\xff" * 66,
            "A" * 100_000, "null", "undefined", f'"{value}"', f" {value}",
        ]  # fmt: skip
        raw = base64.urlsafe_b64decode(value + "==")
        others += [
            forge.b64(bytes([raw[0] ^ 2]) + raw[1:]),
            forge.b64(raw[:1] + raw[17:] + raw[1:17]),
            forge.b64(raw[:17]),
        ]
        others += [
            forge.b64(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :]) for index in range(len(raw))
        ]
        for other in others:
            sent: list[Header] = [
                ("cookie", credential),
                ("cookie", f"csrf_token={other}"),
                ("x-csrf-token", other),
                SAME_ORIGIN,
            ]
            refuses(await ask(kit, "PATCH", NOTHING, sent, json={}), "token")
            mixed: list[Header] = [
                ("cookie", f"{credential}; csrf_token={value}"),
                ("x-csrf-token", other),
                SAME_ORIGIN,
            ]
            refuses(await ask(kit, "PATCH", NOTHING, mixed, json={}), "token")
        good: list[Header] = [
            ("cookie", f"{credential}; csrf_token={value}"),
            ("x-csrf-token", value),
            SAME_ORIGIN,
        ]
        assert (await ask(kit, "PATCH", NOTHING, good, json={})).code == "not_found"
        assert (await ask(kit, "GET", f"{AUTH}/csrf", [("cookie", credential)])).json()["csrf_token"] != value
