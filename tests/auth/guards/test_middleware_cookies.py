"""AuthMiddleware and cookies: other sites cannot cause requests to the host, and legacy cookies are deprecated."""

from typing import Any

import pytest

from projkit import ProjKit
from projkit.auth.middleware import AuthMiddleware
from tests.auth.guards.client import bearer, http, websocket
from tests.auth.guards.guarded import FROM_APP, JSON, ORIGIN, Host, credentials, csrf, token

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", ["auth_token", "access_token"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "post", "BREW"])
async def test_csrf(kit: ProjKit, app: AuthMiddleware, host: Host, kind: str, method: str) -> None:
    """An unsafe request that a cookie authenticates reaches the host by all three rules alone, else 403."""
    headers = credentials(kit, kind)
    good = await csrf(kit, headers)
    body: dict[str, Any] = {"method": method, "body": b"{}"}
    alone = [(name, value) for name, value in good if name == b"cookie"]
    for rule, brought in {
        "origin": [*alone, *JSON],
        "token": [*alone, *FROM_APP, *JSON],
        "content_type": [*good, (b"content-type", b"text/plain")],
    }.items():
        answer = await http(app, "/", headers=brought, **body)
        assert (answer.status, answer.json()["code"], answer.json()["rule"]) == (403, "csrf_failed", rule)
    foreign = [*good[:2], (b"origin", b"https://evil.example"), *JSON]
    assert (await http(app, "/", headers=foreign, **body)).status == 403
    assert host.paths == []
    assert (await http(app, "/", headers=[*good, *JSON], **body)).status == 200
    for safe in ("GET", "HEAD", "OPTIONS"):
        assert (await http(app, "/", headers=headers, method=safe)).status == 200


async def test_csrf_is_of_no_concern_to_bearer_tokens(kit: ProjKit, app: AuthMiddleware) -> None:
    """A valid Bearer token needs no CSRF token; next to an invalid one, the cookie's is not checked."""
    answer = await http(app, "/", method="POST", body=b"a=b", headers=bearer(token(kit)))
    assert answer.status == 200
    cookies = await csrf(kit, credentials(kit, "auth_token"))
    assert (await http(app, "/", method="POST", headers=[*bearer("x"), *cookies, *JSON])).status == 401


async def test_a_forged_request_to_a_public_path_is_anonymous(kit: ProjKit, app: AuthMiddleware) -> None:
    """A request to a public path that another site may have caused is not attributed to the user."""
    headers = credentials(kit, "auth_token")
    forged = await http(app, "/public", method="POST", headers=headers)
    assert (forged.status, forged.json()["subject"]) == (200, "")
    meant = await http(app, "/public", method="POST", headers=await csrf(kit, headers))
    assert meant.json()["subject"] == "alice"


@pytest.mark.parametrize("kind", ["auth_token", "access_token"])
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ([], 403), ([b"https://evil.example"], 403), ([b"null"], 403), ([b"http://testserver"], 403),
        ([ORIGIN.upper().encode()], 403), ([f"{ORIGIN}.evil.example".encode()], 403), ([b"*"], 403), ([b""], 403),
        ([ORIGIN.encode(), b"https://evil.example"], 403), ([ORIGIN.encode()] * 2, 403), ([ORIGIN.encode()], 101),
    ],
)  # fmt: skip
async def test_the_origin_of_a_websocket(
    kit: ProjKit, app: AuthMiddleware, host: Host, kind: str, origin: list[bytes], status: int
) -> None:
    """A WebSocket authenticated by a cookie requires an allowed Origin, whatever Host and Sec-Fetch-Site are."""
    more = [(b"sec-fetch-site", b"same-origin"), *((b"origin", each) for each in origin)]
    opened = await websocket(app, "/read", headers=[*credentials(kit, kind), *more])
    assert opened.status == status
    if status == 403:
        assert opened.json()["rule"] == "origin"
        assert host.paths == []
        closed = await websocket(app, "/read", headers=[*credentials(kit, kind), *more], denial=False)
        assert closed.sent == [{"type": "websocket.close", "code": 1008}]
    assert (await websocket(app, "/read", headers=[*bearer(token(kit)), *more])).status == 101


@pytest.mark.parametrize("kind", ["legacy bearer", "access_token"])
async def test_legacy_clients_are_told(kit: ProjKit, app: AuthMiddleware, kind: str) -> None:
    """The host's responses to legacy tokens have Deprecation and Sunset, also for denied or accepted
    WebSockets.
    """
    headers = credentials(kit, kind)
    expected = ("@1767225600", "Tue, 01 Jan 2030 00:00:00 GMT")
    nested = AuthMiddleware(app, kit)
    for answer in (
        await http(app, "/read", headers=headers),
        await http(app, "/public", headers=headers),
        await http(nested, "/read", headers=headers),
        await http(app, "/admin", headers=headers),
        await websocket(app, "/read", headers=[*headers, *FROM_APP]),
        await websocket(app, "/admin", headers=[*headers, *FROM_APP]),
    ):
        assert (answer.header("deprecation"), answer.header("sunset")) == expected
    enhanced = await http(app, "/read", headers=bearer(token(kit)))
    assert (enhanced.header("deprecation"), enhanced.header("sunset")) == (None, None)
