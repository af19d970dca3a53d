"""Hosts whose ``get_principal`` passes requests on to the kit, and reports what authenticated the others."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from projkit import NOT_MINE, HostCredential, NotMine, Principal, ProjKit
from projkit.auth.middleware import AuthMiddleware
from tests.auth.guards.client import Answer, Headers, bearer, cookie, http, websocket
from tests.auth.guards.guarded import (
    FROM_APP,
    JSON,
    KINDS,
    ORIGIN,
    RULES,
    Host,
    counted,
    credentials,
    csrf,
    legacy_token,
    make_settings,
    token,
)

pytestmark = pytest.mark.anyio

PROJECTS = "/api/v1/projects"
PUBLIC_ORIGIN = "https://projects.example.com"
SESSION: Headers = cookie("hostsession", "bob")
SAME_ORIGIN: Headers = [(b"sec-fetch-site", b"same-origin")]
CROSS_SITE: Headers = [(b"sec-fetch-site", b"cross-site")]
FOREIGN: Headers = [(b"origin", b"https://evil.example")]
BOB = Principal("bob")

Report = Callable[[Principal], Principal | HostCredential]


def plain(principal: Principal) -> Principal:
    """Return the principal as hosts do that do not report what authenticated the request."""
    return principal


def by_cookie(principal: Principal) -> HostCredential:
    """Report a cookie."""
    return HostCredential(principal, cookie=True)


def not_by_cookie(principal: Principal) -> HostCredential:
    """Report anything but a cookie."""
    return HostCredential(principal, cookie=False)


@asynccontextmanager
async def hosted(
    url: str, report: Report, host: Host | None = None, **options: Any
) -> AsyncIterator[tuple[ProjKit, AuthMiddleware]]:
    """A kit, and a guarded host, of a host with sessions and Authorization headers of its own."""

    def get_principal(scope: Any) -> Principal | HostCredential | NotMine:
        headers = dict(scope["headers"])
        if b"hostsession=bob" in headers.get(b"cookie", b""):
            return report(BOB)
        return report(BOB) if headers.get(b"authorization", b"").endswith(b" host-token") else NOT_MINE

    settings = make_settings(url).model_copy(update={"public_url": f"{PUBLIC_ORIGIN}/kit"})
    kit = ProjKit(settings, get_principal=get_principal, **options)
    async with kit.lifespan():
        yield kit, AuthMiddleware(host or Host(), kit, rules=RULES)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_the_hosts_is_read_by_the_kit(sqlite_url: str, host: Host, kind: str) -> None:
    """Where get_principal returns NOT_MINE, each credential of the kit counts as if there were no get_principal."""
    async with hosted(sqlite_url, plain, host) as (kit, app):
        headers = credentials(kit, kind)
        for answer in (
            await http(kit, "/api/v1/auth/session", headers=headers),
            await http(app, "/read", headers=headers),
            await websocket(app, "/read", headers=[*headers, *FROM_APP]),
        ):
            assert answer.json()["subject"] == "alice"
        assert (await http(kit, PROJECTS)).status == 401
        assert (await http(kit, PROJECTS, headers=bearer("x"))).json()["code"] == "invalid_token"
        twice = [*bearer(token(kit)), *bearer(token(kit))]
        assert (await http(app, "/read", headers=twice)).json()["code"] == "ambiguous_credentials"
        assert (await http(app, "/admin", headers=headers)).status == 403


async def test_the_kits_rules_apply_to_its_own_credentials(sqlite_url: str) -> None:
    """A request that is passed on is subject to the CSRF rules, the sunset headers and the counts of the kit."""
    async with hosted(sqlite_url, plain) as (kit, app):
        headers = credentials(kit, "auth_token")
        good = await csrf(kit, headers)
        for target, path in ((kit, PROJECTS), (app, "/elsewhere")):
            body: dict[str, Any] = {"method": "POST", "body": b'{"name":"Roof"}'}
            forged = await http(target, path, headers=[*headers, *FROM_APP, *JSON], **body)
            assert (forged.status, forged.json()["rule"]) == (403, "token")
            assert (await http(target, path, headers=[*good, *JSON], **body)).status in {200, 201}
        deprecated = await http(app, "/read", headers=bearer(legacy_token()))
        assert deprecated.header("deprecation") == "@1767225600"
        assert counted(kit, "bearer", "legacy", "accepted") == 1


@pytest.mark.parametrize("kind", ["header", "cookie"])
async def test_the_host_comes_first(sqlite_url: str, kind: str) -> None:
    """A request with credentials of both belongs to the host's user; the kit's are not read."""
    async with hosted(sqlite_url, plain) as (kit, app):
        both = [*bearer("host-token"), *credentials(kit, "auth_token")]
        if kind == "cookie":
            both = cookie("hostsession", f"bob; auth_token={token(kit)}")
        assert (await http(app, "/read", headers=both)).json()["subject"] == "bob"
        assert counted(kit, "auth_token", "enhanced", "accepted") == 0


async def test_none_rejects(sqlite_url: str) -> None:
    """None still rejects a request, whatever credentials of the kit it has."""
    kit = ProjKit(make_settings(sqlite_url), get_principal=lambda _: None)
    async with kit.lifespan():
        assert (await http(kit, PROJECTS, headers=bearer(token(kit)))).status == 401


# From where a request comes, and whether rule 1 accepts that.
ORIGINS: dict[str, tuple[Headers, bool]] = {
    "same origin": (SAME_ORIGIN, True),
    "typed by the user": ([(b"sec-fetch-site", b"none")], True),
    "allowed origin": ([*CROSS_SITE, *FROM_APP], True),
    "origin of PUBLIC_URL": ([(b"origin", PUBLIC_ORIGIN.encode())], True),
    "other site": ([*CROSS_SITE, *FOREIGN], False),
    "sibling": ([(b"sec-fetch-site", b"same-site")], False),
    "opaque origin": ([(b"origin", b"null")], False),
    "the Host header's": ([(b"origin", b"http://testserver")], False),
    "repeated": ([*FROM_APP, *FOREIGN], False),
}


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("report", [by_cookie, plain])
async def test_other_sites_cannot_use_a_hosts_cookie(
    sqlite_url: str, host: Host, report: Report, origin: str
) -> None:
    """An unsafe request or a WebSocket with the host's cookie needs an allowed origin, on kit and host alike."""
    sent, allowed = ORIGINS[origin]
    headers = [*SESSION, *sent, *JSON]
    async with hosted(sqlite_url, report, host) as (kit, app):
        answers = [
            await http(kit, PROJECTS, method="POST", body=b'{"name":"Roof"}', headers=headers),
            *[await http(app, "/read", method=each, headers=headers) for each in ("POST", "DELETE", "BREW")],
            await websocket(app, "/read", headers=[*SESSION, *sent]),
        ]
        if allowed:
            assert [answer.status for answer in answers] == [201, 200, 200, 200, 101]
        else:
            assert {answer.status for answer in answers} == {403}
            assert {(each.json()["code"], each.json()["rule"]) for each in answers} == {
                ("csrf_failed", "origin")
            }
            assert host.paths == []
        counts = {"mode": "host", "outcome": "accepted" if allowed else "refused"}
        assert kit.registry.get_sample_value("projkit_auth_csrf_checks_total", counts) == 5
        assert (await http(app, "/read", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("report", "unmarked", "form"), [(by_cookie, 403, 403), (plain, 200, 200), (not_by_cookie, 200, 200)]
)
async def test_what_the_host_reports_decides(
    sqlite_url: str, report: Report, unmarked: int, form: int
) -> None:
    """A reported cookie needs an origin and JSON even without a browser's headers; otherwise clients and forms pass."""
    async with hosted(sqlite_url, report) as (_, app):
        send: dict[str, Any] = {"method": "POST", "body": b"a=b"}
        answer = await http(app, "/read", headers=[*SESSION, *JSON], **send)
        assert answer.status == unmarked
        typed = [*SESSION, *SAME_ORIGIN, (b"content-type", b"application/x-www-form-urlencoded")]
        answer = await http(app, "/read", headers=typed, **send)
        assert answer.status == form
        if form == 403:
            assert answer.json()["rule"] == "content_type"
        forged = await http(app, "/read", headers=[*SESSION, *CROSS_SITE, *JSON], **send)
        assert forged.status == (200 if report is not_by_cookie else 403)
        opened = await websocket(app, "/read", headers=SESSION)
        assert opened.status == (403 if report is by_cookie else 101)


@pytest.mark.parametrize(
    ("scheme", "status"),
    [("Bearer", 200), ("Token", 200), ("Basic", 403), ("basic", 403), ("Digest", 403), ("Negotiate", 403)],
)
async def test_headers_that_browsers_send_by_themselves(sqlite_url: str, scheme: str, status: int) -> None:
    """Without a report, an Authorization header exempts from rule 1, unless browsers repeat its scheme."""
    async with hosted(sqlite_url, plain) as (_, app):
        headers = [(b"authorization", f"{scheme} host-token".encode()), *CROSS_SITE]
        assert (await http(app, "/read", method="POST", headers=headers)).status == status


@pytest.mark.parametrize("accepts", [True, False])
async def test_the_hosts_own_csrf_check(sqlite_url: str, accepts: bool) -> None:
    """The host's csrf_check also decides about requests that the host reports as authenticated by a cookie."""

    async def check(_: Any) -> bool:
        return accepts

    async with hosted(sqlite_url, by_cookie, csrf_check=check) as (_, app):
        answer: Answer = await http(app, "/read", method="POST", headers=[*SESSION, *SAME_ORIGIN])
        assert answer.status == (200 if accepts else 403)
        if not accepts:
            assert answer.json()["rule"] == "token"


async def test_a_report_about_an_anonymous_caller(sqlite_url: str, host: Host) -> None:
    """A path that is public gets a forged request as anonymous, not as the host's user."""
    async with hosted(sqlite_url, by_cookie, host) as (_, app):
        headers = [*SESSION, (b"origin", ORIGIN.encode() + b".evil.example")]
        forged = await http(app, "/public", method="POST", headers=headers)
        assert (forged.status, forged.json()["subject"]) == (200, "")


class UserOfTheHost:
    """A user as an ORM returns it, in place of a principal."""

    is_authenticated = True


_NO_PRINCIPAL: Any = "bob"


@pytest.mark.parametrize(
    "wrong",
    [UserOfTheHost(), "bob", {"sub": "bob"}, True, HostCredential(_NO_PRINCIPAL, cookie=True)],
    ids=lambda wrong: type(wrong).__name__,
)
async def test_a_get_principal_that_returns_something_else(
    sqlite_url: str, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A result of another type is no caller, and the log says what the function must return."""
    kit = ProjKit(make_settings(sqlite_url), get_principal=lambda _: wrong)
    async with kit.lifespan():
        answer: Answer = await http(kit, PROJECTS)
    assert answer.status == 500
    name = type(wrong.principal if isinstance(wrong, HostCredential) else wrong).__name__
    expected = f"get_principal must return a Principal, a HostCredential, NOT_MINE or None, not {name}"
    assert expected in caplog.text
