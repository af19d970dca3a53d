"""AuthMiddleware: a host's routes and WebSockets are reachable only as their rules allow."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from projkit import Principal, ProjKit
from projkit.auth.middleware import PUBLIC, SELF_GUARDED, AuthMiddleware
from projkit.identity import ANONYMOUS
from tests.asgi import http_scope
from tests.auth.guards.client import Headers, bearer, cookie, http, raw, websocket
from tests.auth.guards.guarded import (
    FROM_APP,
    KINDS,
    ORIGIN,
    RULES,
    Host,
    counted,
    credentials,
    legacy_token,
    make_settings,
    nothing,
    token,
)
from tests.conftest import settings_for, token_for

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/", "/read/x", "/public/x"])
async def test_each_credential(kit: ProjKit, app: AuthMiddleware, kind: str, path: str) -> None:
    """Bearer, auth_token and access_token each authenticate the caller, over HTTP and for WebSockets."""
    headers = credentials(kit, kind)
    format_ = "legacy" if kind not in {"bearer", "auth_token"} else "enhanced"
    expected = {"subject": "alice", "format": format_}
    answer = await http(app, path, headers=headers)
    assert (answer.status, answer.json(), answer.header("x-host")) == (200, expected, "1")
    opened = await websocket(app, path, headers=[*headers, *FROM_APP])
    assert (opened.status, opened.json()) == (101, expected)


BAD: dict[str, tuple[Headers, str, str]] = {
    "none": ([], "missing_credentials", 'Bearer realm="projkit"'),
    "other cookies": (
        cookie("session", "x") + cookie(" auth_token ", "x"), "missing_credentials", 'Bearer realm="projkit"',
    ),
    "no token": (bearer("x.y.z"), "invalid_token", 'Bearer realm="projkit", error="invalid_token"'),
    "basic": (
        [(b"authorization", b"Basic YTpi")], "invalid_token", 'Bearer realm="projkit", error="invalid_token"',
    ),
    "bad cookie": (cookie("auth_token", "x"), "invalid_token", 'Bearer realm="projkit", error="invalid_token"'),
    "bad legacy cookie": (
        cookie("access_token", "x"), "invalid_token", 'Bearer realm="projkit", error="invalid_token"',
    ),
    "twice": (
        bearer("x") + bearer("x"), "ambiguous_credentials", 'Bearer realm="projkit", error="invalid_request"',
    ),
    "cookie twice": (
        [(b"cookie", b"auth_token=a; auth_token=b")],
        "ambiguous_credentials", 'Bearer realm="projkit", error="invalid_request"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("path", ["/", "/elsewhere/x", "/read", "/admin/x"])
async def test_without_good_credentials(app: AuthMiddleware, host: Host, bad: str, path: str) -> None:
    """Requests without valid credentials get the contract's 401 and do not reach the host."""
    headers, code, challenge = BAD[bad]
    answer = await http(app, path, headers=[*headers, (b"x-request-id", b"mine-7")])
    assert (answer.status, answer.header("content-type")) == (401, "application/problem+json")
    assert (answer.header("www-authenticate"), answer.header("x-request-id")) == (challenge, "mine-7")
    assert answer.header("cache-control") == "private, no-store"
    assert answer.header("x-content-type-options") == "nosniff"
    problem = answer.json()
    assert (problem["code"], problem["instance"], problem["request_id"]) == (code, path, "mine-7")
    denied = await websocket(app, path, headers=[*headers, *FROM_APP])
    assert (denied.status, denied.header("www-authenticate"), denied.json()["code"]) == (401, challenge, code)
    assert denied.header("x-request-id") == denied.json()["request_id"]
    closed = await websocket(app, path, headers=[*headers, *FROM_APP], denial=False)
    assert closed.sent == [{"type": "websocket.close", "code": 1008}]
    assert host.paths == []


@pytest.mark.parametrize("bad", BAD)
async def test_public_paths_never_refuse(kit: ProjKit, app: AuthMiddleware, bad: str) -> None:
    """On a public path bad credentials leave an anonymous caller, and no 401."""
    for answer in (
        await http(app, "/public", headers=BAD[bad][0]),
        await http(app, "/public", headers=BAD[bad][0], method="POST"),
        await websocket(app, "/public/x", headers=BAD[bad][0]),
    ):
        assert (answer.status, answer.json()) in [
            (status, {"subject": "", "format": None}) for status in (200, 101)
        ]


async def test_a_bad_credential_is_not_made_good_by_another(kit: ProjKit, app: AuthMiddleware) -> None:
    """The first credential that is present decides: a valid cookie does not replace an invalid Bearer token."""
    good = cookie("auth_token", token(kit))
    assert (await http(app, "/", headers=[*bearer("x.y.z"), *good])).status == 401
    both = [(b"cookie", f"access_token=old; auth_token={token(kit)}".encode())]
    assert (await http(app, "/", headers=both)).status == 200


@pytest.mark.parametrize(
    ("scopes", "read", "both", "admin"),
    [
        ((), "projects:read", "projects:read monitoring:read", "admin"),
        (("projects:read",), None, "monitoring:read", "admin"),
        (("monitoring:read",), "projects:read", "projects:read", "admin"),
        (("projects:read", "monitoring:read"), None, None, "admin"),
        (("admin",), None, None, None),
    ],
)
async def test_scopes(
    kit: ProjKit,
    app: AuthMiddleware,
    host: Host,
    scopes: tuple[str, ...],
    read: str | None,
    both: str | None,
    admin: str | None,
) -> None:
    """All scopes of a rule are required, and the 403 names the missing ones; admin has every scope."""
    headers = bearer(token(kit, scopes))
    for path, missing in (("/read", read), ("/both/x", both), ("/admin", admin), ("/elsewhere", None)):
        answer = await http(app, path, headers=headers)
        opened = await websocket(app, path, headers=headers)
        if missing is None:
            assert (answer.status, opened.status) == (200, 101)
            continue
        assert (answer.status, opened.status) == (403, 403)
        named = " ".join(sorted(missing.split()))
        challenge = f'Bearer realm="projkit", error="insufficient_scope", scope="{named}"'
        for each in (answer, opened):
            assert (each.header("www-authenticate"), each.json()["code"]) == (challenge, "insufficient_scope")
        assert path not in host.paths


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"testserver/public")], [(b"host", b"testserver/public?")], [(b"host", b"x/public#")],
        [(b"host", b"public")], [], [(b"host", b"a"), (b"host", b"b/public")],
        [(b"x-forwarded-host", b"x/public"), (b"x-forwarded-prefix", b"/public"), (b"forwarded", b"host=x/public")],
        [(b"x-original-url", b"/public"), (b"x-rewrite-url", b"/public")],
    ],
)  # fmt: skip
async def test_host_headers_changenothing(app: AuthMiddleware, host: Host, headers: Headers) -> None:
    """The Host header neither opens a path nor closes one."""
    for path, status in (("/admin", 401), ("/public", 200)):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        await app(http_scope(path, headers=headers), nothing, send)
        assert sent[0]["status"] == status
    assert host.paths == ["/public"]


TARGETS = [
    "//public", "//public/..", "/public/../admin", "/public/%2e%2e/admin", "/public/.%2e/admin", "/public/%2E%2E/admin",
    "/public//", "/./public", "/public/.", "/public%2f..%2fadmin", "/public%2F", "/public%5c..%5cadmin",
    "/public/..%5cadmin", "/public\\", "/public/%252e%252e/admin", "/public/%00", "/public/x;/", "/public/..;/admin",
    "/PUBLIC", "/Public/x", "/%2fpublic", "/public%0a", "/publicx", "/publi", "/public%20", "/%70ublic%2f",
    "http://testserver/public", "public", "*",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
async def test_path_tricks(kit: ProjKit, app: AuthMiddleware, host: Host, target: str) -> None:
    """No spelling of a path makes it public, or opens an administrator's path to other users."""
    assert (await raw(app, target)).status == 401
    assert host.paths == []
    is_admins = "admin" in target
    answer = await raw(app, target, headers=bearer(token(kit)))
    assert answer.status == 403 if is_admins else answer.status in {200, 403}
    assert (await raw(app, target, headers=bearer(token(kit, ("admin",))))).status == 200


async def test_encoding_what_needs_none_changesnothing(app: AuthMiddleware) -> None:
    """A public path that a client encoded without need is public all the same: servers decode it once."""
    for target in ("/%70ublic", "/public/%61", "/public/%C3%A4"):
        assert (await raw(app, target)).status == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET", "TRACE"])
async def test_every_method_is_guarded(app: AuthMiddleware, host: Host, method: str) -> None:
    """Rules apply to HEAD and OPTIONS as well; the response to HEAD has no body."""
    answer = await http(app, "/read", method=method)
    assert (answer.status, answer.body == b"") == (401, method == "HEAD")
    assert host.paths == []


async def test_preflights_are_answered_outside(kit: ProjKit, host: Host) -> None:
    """CORS middleware around the guard answers preflights and exposes denials to allowed origins."""
    app = CORSMiddleware(AuthMiddleware(host, kit, rules=RULES), allow_origins=[ORIGIN])
    preflight = [*FROM_APP, (b"access-control-request-method", b"GET")]
    assert (await http(app, "/read", method="OPTIONS", headers=preflight)).status == 200
    refused = await http(app, "/read", headers=FROM_APP)
    assert (refused.status, refused.header("access-control-allow-origin")) == (401, ORIGIN)
    assert host.paths == []


async def test_asked_once_for_each_request(kit: ProjKit, app: AuthMiddleware) -> None:
    """A request's credential is verified and counted once, regardless of the number of guards."""
    nested = AuthMiddleware(AuthMiddleware(app, kit, rules={"/read": PUBLIC}), kit)
    assert (await http(nested, "/read", headers=bearer(token(kit)))).status == 200
    assert counted(kit, "bearer", "enhanced", "accepted") == 1
    assert (await http(nested, "/read", headers=bearer("x"))).status == 401
    assert counted(kit, "bearer", "unknown", "refused") == 1


async def test_what_another_kit_knows_saysnothing_here(
    kit: ProjKit, app: AuthMiddleware, host: Host, sqlite_url: str
) -> None:
    """The guard of one kit does not trust a caller that another kit has authenticated."""
    other = ProjKit(settings_for(sqlite_url, secret="another secret, which is long enough as well"))
    async with other.lifespan():
        both = AuthMiddleware(app, other)
        answer = await http(both, "/", headers=bearer(token_for(other.settings, "mallory")))
        assert (answer.status, host.paths) == (401, [])
        assert (await http(AuthMiddleware(host, other), "/", headers=bearer(token(kit)))).status == 401


async def test_what_the_host_sees(kit: ProjKit, app: AuthMiddleware, host: Host) -> None:
    """The scope that reaches the host is the server's own, with the principal and its scopes added."""
    server_scope = http_scope("/read", headers=bearer(token(kit)))
    before = dict(server_scope)

    async def send(message: Any) -> None:
        pass

    await app(server_scope, nothing, send)
    (scope,) = host.scopes
    assert scope is server_scope
    assert {key: scope[key] for key in before} == before
    assert {key for key in scope if key not in before and not key.startswith("projkit.")} == {"user", "auth"}
    assert scope["user"] == Principal("alice", token_format="enhanced")
    assert (scope["user"].is_authenticated, scope["user"].display_name, scope["user"].identity) == (
        True, "alice", "alice",
    )  # fmt: skip
    assert not ANONYMOUS.is_authenticated


async def test_requires_of_starlette(kit: ProjKit) -> None:
    """request.user, request.auth and Starlette's own ``requires`` work behind the guard."""

    @requires(["authenticated", "projects:read"])
    async def page(request: Request) -> JSONResponse:
        return JSONResponse([request.user.display_name, request.auth.scopes])

    @requires("host:own")
    async def own(request: Request) -> JSONResponse:
        return JSONResponse([])

    middleware = [Middleware(AuthMiddleware, kit=kit, rules={"/": PUBLIC})]
    app = Starlette(routes=[Route("/page", page), Route("/own", own)], middleware=middleware)
    answer = await http(app, "/page", headers=bearer(token(kit, ("projects:read",))))
    assert answer.json() == ["alice", ["projects:read", "authenticated"]]
    for path, headers, status in (
        ("/page", [], 403), ("/page", bearer(token(kit, ())), 403), ("/own", bearer(token(kit)), 403),
        ("/page", bearer(token(kit, ("admin",))), 200), ("/own", bearer(token(kit, ("admin",))), 200),
    ):  # fmt: skip
        assert (await http(app, path, headers=headers)).status == status


async def test_in_nested_mounts(kit: ProjKit, host: Host) -> None:
    """Inside a mount, rules are relative to it at any depth; a mount with a similar name opens no path."""
    inner = AuthMiddleware(host, kit, rules=RULES)
    app = Starlette(routes=[Mount("/public", Mount("/admin", inner)), Mount("/a", inner)])
    for path, status in (
        ("/public/admin/read", 401), ("/public/admin/public", 200), ("/public/admin/", 401), ("/a/public/x", 200),
        ("/a/read", 401), ("/a/a/public", 401), ("/a//public", 401),
    ):  # fmt: skip
        assert (await http(app, path, root_path="")).status == status, path
        below = await http(app, f"/proxy{path}", root_path="/proxy")
        assert below.status == status, path
        if status == 401:
            assert below.json()["instance"] == f"/proxy{path}"


async def test_a_kit_that_the_host_mounts(kit: ProjKit, sqlite_url: str) -> None:
    """A mounted kit guards itself: its public routes stay open, and it counts each credential once."""
    app = AuthMiddleware(Starlette(routes=[Mount("/kit", kit)]), kit, rules={"/kit": SELF_GUARDED})
    projects = "/kit/api/v1/projects"
    for path, headers, status in (
        ("/kit/api/v1/health/live", [], 200), ("/kit/api/v1/auth/jwks", [], 200), (projects, [], 401),
        (projects, bearer(token(kit)), 200), ("/kit/../public", [], 401), ("/other", [], 401),
    ):  # fmt: skip
        assert (await http(app, path, headers=headers)).status == status
    assert counted(kit, "bearer", "enhanced", "accepted") == 1


async def test_wrapped_around_the_host(kit: ProjKit, host: Host) -> None:
    """``kit.wrap(host, auth=rules)`` guards the host and leaves the kit's own routes to the kit."""
    for prefix, app in (
        ("", kit.wrap(host, auth=RULES)),
        ("/kit", kit.wrap(host, prefix="/kit", auth=RULES)),
    ):
        assert (await http(app, f"{prefix}/api/v1/health/live")).status == 200
        assert (await http(app, f"{prefix}/api/v1/projects")).status == 401
        assert (await http(app, "/read", headers=bearer(token(kit)))).status == 200
        assert (await http(app, "/public")).status == 200
        assert (await http(app, "/read")).json()["code"] == "missing_credentials"
        assert (await websocket(app, "/read")).status == 401
        assert (await websocket(app, f"{prefix}/api/v1/projects")).status == 401
    assert set(host.paths) == {"/read", "/public"}
    assert (await http(kit.wrap(host), "/read")).status == 200


async def test_other_protocols(app: AuthMiddleware, kit: ProjKit, host: Host) -> None:
    """The lifespan scope passes; an unknown scope type is rejected."""

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        host.paths.append(scope["type"])

    await AuthMiddleware(lifespan, kit)({"type": "lifespan"}, nothing, nothing)  # type: ignore[arg-type]
    assert host.paths == ["lifespan"]
    with pytest.raises(NotImplementedError, match="webtransport"):
        await app({"type": "webtransport", "path": "/public", "headers": []}, nothing, nothing)  # type: ignore[arg-type]
    assert host.paths == ["lifespan"]


async def test_the_hosts_own_errors_pass(kit: ProjKit) -> None:
    """An exception of the host reaches its server unchanged, and no response is sent instead."""

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await http(AuthMiddleware(broken, kit), "/", headers=bearer(token(kit)))


async def test_without_a_lifespan(sqlite_url: str, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Without a lifespan, the kit starts at the first guarded request and logs that once."""
    kit = ProjKit(make_settings(sqlite_url))
    app = AuthMiddleware(host, kit, rules=RULES)
    for _ in range(2):
        assert (await http(app, "/read", headers=bearer(token(kit)))).status == 200
    assert len([record for record in caplog.records if "lifespan" in record.message]) == 1
    await kit.shutdown()


async def test_while_authentication_is_unavailable(
    empty_postgres_url: str, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """While a kit cannot authenticate callers, guarded paths get 503, never 401 or the host; public paths
    still work.
    """
    kit = ProjKit(make_settings(empty_postgres_url))  # cannot start: its tables are not there
    app = AuthMiddleware(host, kit, rules=RULES)
    headers = bearer(token(kit))
    answer = await http(app, "/read", headers=headers)
    assert (answer.status, answer.header("retry-after"), host.paths) == (503, "1", [])
    assert answer.header("content-type") == "application/problem+json"
    assert (await websocket(app, "/read", headers=headers)).status == 503
    assert host.paths == []
    assert (await http(app, "/public", headers=headers)).json()["subject"] == ""
    assert "projkit migrate" in caplog.text


async def test_expired_tokens(kit: ProjKit, app: AuthMiddleware) -> None:
    """An expired token of either format is rejected."""
    old = int((datetime.now(UTC) - timedelta(minutes=5)).timestamp())
    for headers in (bearer(token(kit, seconds=-60)), cookie("access_token", legacy_token(exp=old))):
        assert (await http(app, "/", headers=headers)).status == 401
        assert (await websocket(app, "/", headers=[*headers, *FROM_APP])).status == 401
