"""The guards for each framework protect its routes, with and without an AuthMiddleware."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from projkit import Settings
from tests.conftest import SECRET, token_for
from tests.hosts.conftest import SERVERS, Served, started

LEGACY_SECRET = "a legacy secret of the tests, as long as it must be"
ORIGIN = {"Origin": "https://app.example.com"}
LACKS = 'Bearer realm="projkit", error="insufficient_scope"'
FRAMEWORKS = ("fastapi", "starlette", "litestar", "django")
VARIANTS = [
    *((framework, variant) for framework in FRAMEWORKS for variant in ("alone", "behind")),
    ("django", "decorators alone"),
    ("django", "among sync middleware"),
]
Guarded = tuple[Served, str, str]


def serve(server: str, framework: str, variant: str, directory: Any) -> Any:
    """Run a guarded host on a server."""
    variables = {
        "FRAMEWORK": framework,
        "VARIANT": variant,
        "LEGACY_SECRET": LEGACY_SECRET,
        "PROJKIT_DATABASE_URL": f"sqlite:///{directory / 'projkit.db'}",
    }
    return started(server, "tests.hosts.guarded_apps:app", directory, "/open", variables)


@pytest.fixture(scope="module", params=VARIANTS, ids=" ".join)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Return each framework's host with its name and variant."""
    framework, variant = request.param
    with serve("uvicorn", framework, variant, tmp_path_factory.mktemp("guarded")) as served:
        yield served, framework, variant


@pytest.fixture
def client(guarded: Guarded) -> Iterator[httpx2.Client]:
    """Create a client without credentials."""
    with httpx2.Client(base_url=guarded[0].url, timeout=20) as opened:
        yield opened


def token(*scopes: str) -> str:
    """Issue an enhanced token for alice."""
    return token_for(Settings(secret=SECRET), "alice", scopes)


def bearer(*scopes: str) -> dict[str, str]:
    """Return the Authorization header."""
    return {"Authorization": f"Bearer {token(*scopes)}"}


def legacy() -> str:
    """Issue a legacy token for alice."""
    claims = {"user_id": "alice", "exp": int(datetime.now(UTC).timestamp()) + 600}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(LEGACY_SECRET.encode()))


def said(answer: httpx2.Response) -> str:
    """Return the text of a JSON or plain text response."""
    return answer.text.strip('"')


def test_who_is_let_in(client: httpx2.Client) -> None:
    """Each kind of credential and the required scopes give access to a guarded route, which knows the caller."""
    for headers in (
        bearer("projects:read"), {"Cookie": f"auth_token={token('projects:read')}"},
        {"Cookie": f"access_token={legacy()}"}, {"Authorization": f"Bearer {legacy()}"},
    ):  # fmt: skip
        for path in ("/me", "/read"):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, said(answer)) == (200, "alice"), answer.text
    assert said(client.get("/me", headers=bearer())) == "alice"
    for scopes in (("projects:read", "monitoring:read"), ("admin",)):
        assert said(client.get("/both", headers=bearer(*scopes))) == "alice"
    assert said(client.get("/open")) == "open"
    assert said(client.get("/open", headers={"Authorization": "Bearer x"})) == "open"


def test_who_is_refused(client: httpx2.Client, guarded: Guarded) -> None:
    """Other requests are rejected by the host's error handler, with the challenge that clients need."""
    for path, headers, status, challenge in (
        ("/me", {}, 401, 'Bearer realm="projkit"'),
        ("/both", {}, 401, 'Bearer realm="projkit"'),
        ("/me", {"Authorization": "Bearer x"}, 401, 'Bearer realm="projkit", error="invalid_token"'),
        ("/read", {"Cookie": "auth_token=x"}, 401, 'Bearer realm="projkit", error="invalid_token"'),
        ("/me", {"Cookie": "auth_token=x; auth_token=y"}, 401, 'Bearer realm="projkit", error="invalid_request"'),
        ("/read", bearer(), 403, f'{LACKS}, scope="projects:read"'),
        ("/both", bearer("projects:read"), 403, f'{LACKS}, scope="monitoring:read"'),
    ):  # fmt: skip
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (status, challenge), answer.text
        assert answer.headers["cache-control"] == "private, no-store"
        if guarded[1] == "django":
            # Django has no exception for 401, so the response is the kit's.
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
        else:
            assert answer.headers["x-handled-by"] == "the host"
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["handled"]


def test_a_route_without_a_guard(client: httpx2.Client, guarded: Guarded) -> None:
    """A route that passes an anonymous caller to kit.projects responds with 401, and the caller's own projects work."""
    _, framework, variant = guarded
    if variant == "decorators alone":
        pytest.skip("without the middleware there is no request.principal")
    for path in ("/unguarded", "/unguarded/async") if framework == "django" else ("/unguarded",):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="projkit"')
        assert answer.headers["cache-control"] == "private, no-store"
        if framework == "django" or variant == "behind":
            answer = client.get(path, headers=bearer())
            assert (answer.status_code, answer.text) == (200, "0")


def test_csrf(client: httpx2.Client) -> None:
    """An unsafe request with a cookie needs an Origin and a CSRF token, else 403; one with a Bearer token does not."""
    cookie = f"auth_token={token()}"
    value = client.get("/kit/api/v1/auth/csrf", headers={"Cookie": cookie}).json()["csrf_token"]
    whole = {"Cookie": f"{cookie}; csrf_token={value}", "X-CSRF-Token": value, **ORIGIN}
    for missing in ("X-CSRF-Token", "Origin"):
        brought = {name: each for name, each in whole.items() if name != missing}
        assert client.post("/me", headers=brought).status_code == 403
    assert client.post("/me", headers={"Cookie": cookie}).status_code == 403
    for headers in (whole, bearer()):
        answer = client.post("/me", headers=headers)
        assert (answer.status_code, said(answer)) == (200, "alice"), answer.text


def test_legacy_clients_are_told(client: httpx2.Client, guarded: Guarded) -> None:
    """Responses to legacy tokens have Deprecation and Sunset once; with Litestar's guards alone, only rejections do."""
    headers = {"Cookie": f"access_token={legacy()}"}
    for path, status in (("/read", 200), ("/both", 403)):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status
        if guarded[1:] == ("litestar", "alone") and status == 200:
            continue
        assert answer.headers.get_list("sunset") == ["Tue, 01 Jan 2030 00:00:00 GMT"]
        assert len(answer.headers.get_list("deprecation")) == 1
    assert "deprecation" not in client.get("/read", headers=bearer("projects:read")).headers


@pytest.mark.parametrize(
    "guarded", [("django", "alone"), ("django", "among sync middleware")], indirect=True, ids=" ".join
)
def test_an_open_view_of_django_knows_who_calls(client: httpx2.Client) -> None:
    """Behind the middleware every view has request.principal, anonymous without credentials."""
    assert client.get("/open", headers=bearer()).headers["x-subject"] == "alice"
    assert client.get("/open").headers["x-subject"] == ""


@pytest.mark.parametrize(
    "guarded", [("fastapi", "alone"), ("fastapi", "behind")], indirect=True, ids=" ".join
)
def test_the_openapi_document_of_fastapi(client: httpx2.Client) -> None:
    """The host's OpenAPI document has the credentials and scopes of each route, and its docs pages still work."""
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {
        "projkit_bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "projkit_cookie": {"type": "apiKey", "in": "cookie", "name": "auth_token"},
    }
    for path, scopes in (
        ("/me", []),
        ("/read", ["projects:read"]),
        ("/both", ["projects:read", "monitoring:read"]),
    ):
        operation = document["paths"][path]["get"]
        assert operation["security"] == [{"projkit_bearer": scopes}, {"projkit_cookie": scopes}]
        assert not operation.get("parameters")
    assert "security" not in document["paths"]["/open"]["get"]
    assert client.get("/docs").status_code == 200


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """Return each server."""
    return str(request.param)


@pytest.fixture(
    scope="module",
    params=[
        (framework, variant)
        for framework in ("fastapi", "starlette", "litestar")
        for variant in ("alone", "behind")
    ],
    ids=" ".join,
)
def sockets(
    request: pytest.FixtureRequest, server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Return the URL of the WebSockets, and the framework."""
    framework, variant = request.param
    with serve(server, framework, variant, tmp_path_factory.mktemp("sockets")) as served:
        yield served.url.replace("http", "ws"), framework


def shake_hands(url: str, headers: dict[str, str]) -> Any:
    """Return a WebSocket's first message, or the response that rejects it."""
    try:
        with connect(url, additional_headers=headers, open_timeout=20) as opened:
            return opened.recv(20)
    except InvalidStatus as error:
        return error.response


def test_websockets(sockets: tuple[str, str]) -> None:
    """A WebSocket of an authorized caller is accepted; all others are rejected before that, with an HTTP response."""
    url, framework = sockets
    good = {"Cookie": f"auth_token={token('projects:read')}", **ORIGIN}
    for headers in (bearer("projects:read"), good, {"Cookie": f"access_token={legacy()}", **ORIGIN}):
        assert shake_hands(f"{url}/ws", headers) == "alice"
    for path, headers, status in (
        ("/ws", {}, 401), ("/ws", {"Authorization": "Bearer x"}, 401), ("/ws", bearer(), 403),
        ("/ws-admin", bearer("projects:read"), 403), ("/ws", {"Cookie": good["Cookie"]}, 403),
        ("/ws", {**good, "Origin": "https://evil.example"}, 403), ("/ws", {**good, "Origin": "null"}, 403),
    ):  # fmt: skip
        response = shake_hands(f"{url}{path}", headers)
        # Litestar rejects by closing, which servers turn into a plain 403.
        assert response.status_code == (403 if framework == "litestar" else status), (path, headers)
        if framework != "litestar" and "Origin" not in headers and "Cookie" not in headers:
            assert response.headers["www-authenticate"].startswith("Bearer")


def test_django_without_a_kit() -> None:
    """If no kit is configured, the error says how to fix it."""
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.http import HttpResponse
    from django.test import RequestFactory

    from projkit.hosts.django import PrincipalMiddleware

    if not settings.configured:
        settings.configure()
    guarded = PrincipalMiddleware(lambda request: HttpResponse())
    with pytest.raises(ImproperlyConfigured, match="set PROJKIT_KIT to the kit or its dotted path"):
        guarded(RequestFactory().get("/"))
