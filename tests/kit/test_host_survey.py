"""``kit.wrap`` names what it bypasses and hides in a host, and can go inside the host's middlewares."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from blacksheep import Application, Router
from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from litestar import Litestar
from litestar import get as litestar_get
from litestar.config.allowed_hosts import AllowedHostsConfig
from litestar.config.cors import CORSConfig
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from projkit import ProjKit, Settings
from projkit.errors import ConfigurationError
from tests.asgi import call, http_scope
from tests.conftest import SECRET, token_for

pytestmark = pytest.mark.anyio

EVIL = {"host": "evil"}


def page(request: Any) -> PlainTextResponse:
    """Return the host's page."""
    return PlainTextResponse("the host's")


def routes(*paths: str) -> list[Route]:
    """Return routes of a host."""
    return [Route(path, page) for path in paths]


@pytest.fixture
def kit(sqlite_url: str) -> ProjKit:
    """Create a kit."""
    return ProjKit(Settings(secret=SECRET, database_url=sqlite_url))


def starlette() -> Any:
    """Create a host with two middlewares."""
    middlewares = [
        Middleware(TrustedHostMiddleware, allowed_hosts=["test"]),
        Middleware(CORSMiddleware, allow_origins=["https://front.example"]),
    ]
    return Starlette(routes=routes("/page", "/kit/old"), middleware=middlewares)


def fastapi() -> Any:
    """Create the same host in FastAPI."""
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["https://front.example"])
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["test"])
    app.add_route("/page", page)
    app.add_route("/kit/old", page)
    return app


@contextmanager
def warned() -> Iterator[list[str]]:
    """Collect the warnings of the kit."""
    messages: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Collecting(logging.WARNING)
    logger = logging.getLogger("projkit")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        messages[:] = [each for each in messages if "lifespan" not in each]


async def warnings_at_first_request(app: Any) -> list[str]:
    """Return the warnings of the first request to an app."""
    with warned() as messages:
        await call(app, http_scope("/kit/x", headers=[(b"host", b"test")]))
    return messages


async def lifespan(app: Any) -> None:
    """Start and stop an app."""
    await call(
        app, {"type": "lifespan", "asgi": {}}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
    )


@pytest.mark.parametrize("create", [starlette, fastapi])
async def test_bypassed_middlewares_and_hidden_routes(kit: ProjKit, create: Callable[[], Any]) -> None:
    """One warning names the bypassed middlewares, one the hidden routes, at the first start only."""
    app = kit.wrap(create(), prefix="/kit")
    with warned() as messages:
        await lifespan(app)
        await lifespan(app)
    bypassed, hidden = messages
    assert "TrustedHostMiddleware, CORSMiddleware" in bypassed
    assert "inside=True" in bypassed
    assert "/kit/old" in hidden
    assert "/page" not in hidden


async def test_what_is_listed(kit: ProjKit) -> None:
    """Without a prefix only routes at the kit's own paths are hidden; a long list is shortened."""
    hidden = [f"/api/v1/projects/{number}" for number in range(6)]
    app = kit.wrap(Starlette(routes=routes("/metrics", "/api/v1/other", *hidden)))
    (message,) = await warnings_at_first_request(app)
    assert "/metrics, /api/v1/projects/0" in message
    assert "and 2 more" in message
    assert "other" not in message


@pytest.mark.parametrize("public_path", ["", "/app", "/app/kit", "/kit"])
@pytest.mark.parametrize("prefix", ["", "/kit", "/app/kit"])
async def test_every_hidden_route_is_named(sqlite_url: str, public_path: str, prefix: str) -> None:
    """The kit takes exactly those of the host's routes that the warning names, whatever the path of PUBLIC_URL is."""
    url = f"https://example.com{public_path}"
    kit = ProjKit(Settings(secret=SECRET, database_url=sqlite_url, public_url=url))
    ends = ("/metrics", "/api/v1/health/live", "/page")
    paths = [
        start + end for start in ("", "/app", "/kit", "/app/kit", "/kit/app", "/app/kit/app") for end in ends
    ]
    taken = set()
    for path in paths:
        app = kit.wrap(Starlette(routes=routes(path)), prefix=prefix)
        messages = await warnings_at_first_request(app)
        sent = await call(app, http_scope(path))
        is_hidden = sent[1]["body"] != b"the host's"
        assert [path in message for message in messages if "hides" in message] == [True] * is_hidden
        taken |= {path} if is_hidden else set()
    starts = {prefix, public_path} if public_path.endswith(prefix) else {prefix}
    expected = {start + end for start in starts for end in ends if end != "/page"}
    assert taken == expected | {path for path in paths if prefix and path.startswith(f"{prefix}/")}


@pytest.mark.parametrize(
    "prefix",
    ["kit", "//", "/kit//", "//kit", "/a//b", "/k/{x}", "/kit?x", "/kit#x", "/k%20it", "/a;b", "/a\\b", "/./kit", "/..",
     "/a\nb", "/\ud800", "https://example.com/kit"],
)  # fmt: skip
def test_prefixes_that_no_request_has(kit: ProjKit, prefix: str) -> None:
    """A prefix below which nothing could be found is rejected."""
    with pytest.raises(ConfigurationError, match="must be a plain path that starts with /"):
        kit.wrap(Starlette(), prefix=prefix)


@pytest.mark.parametrize(
    ("prefix", "path"),
    [("", ""), ("/", ""), ("/kit/", "/kit"), ("/k it", "/k it"), ("/kît", "/kît"), ("/@a/b+c", "/@a/b+c")],
)
async def test_prefixes_of_any_characters(kit: ProjKit, prefix: str, path: str) -> None:
    """A slash at the end does not matter, and other characters are compared with the decoded path."""
    sent = await call(kit.wrap(Starlette(), prefix=prefix), http_scope(f"{path}/api/v1/health/live"))
    assert sent[0]["status"] == 200


def test_the_prefix_of_a_document(kit: ProjKit) -> None:
    """The paths of a document have one slash between the prefix and the rest; a prefix without a slash is rejected."""
    assert "/kit/metrics" in kit.openapi("/kit/")["paths"]
    assert "/{tenant}/kit/metrics" in kit.openapi("/{tenant}/kit")["paths"]
    with pytest.raises(ValueError, match="must start with /"):
        kit.openapi("kit")


async def test_nothing_to_warn_about(kit: ProjKit) -> None:
    """A host without middlewares, whose routes the kit leaves alone, causes no warning."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await page(None)(scope, receive, send)

    with warned() as messages:
        for host in (
            Starlette(routes=routes("/page")),
            Quart(__name__),
            Litestar([], logging_config=None),
            bare,
        ):
            await call(kit.wrap(host, prefix="/kit"), http_scope("/kit/nothing"))
    assert messages == []


async def test_litestar(kit: ProjKit) -> None:
    """Litestar's settings and middlewares are named, with the advice to mount."""

    @litestar_get("/kit/old")
    async def old() -> str:
        return "the host's"

    app = Litestar(
        [old], cors_config=CORSConfig(), allowed_hosts=AllowedHostsConfig(["test"]), logging_config=None
    )
    bypassed, hidden = await warnings_at_first_request(kit.wrap(app, prefix="/kit"))
    assert "cors_config, allowed_hosts" in bypassed
    assert "is_mount=True" in bypassed
    assert "/kit/old" in hidden


async def test_quart(kit: ProjKit) -> None:
    """Quart's hooks, the ASGI middleware around it, and its routes are named."""
    app = Quart(__name__)

    @app.get("/kit/old")
    async def old() -> str:
        return "the host's"

    @app.before_request
    async def check_host() -> None:
        return None

    app.asgi_app = TrustedHostMiddleware(app.asgi_app, ["test"])  # type: ignore[assignment,arg-type]
    bypassed, hidden = await warnings_at_first_request(kit.wrap(app, prefix="/kit"))
    assert "check_host, TrustedHostMiddleware" in bypassed
    assert "proxy" in bypassed
    assert "/kit/old" in hidden


async def test_routes_of_routers_and_mounted_apps(kit: ProjKit) -> None:
    """Hidden routes are found in included routers and in mounted applications, with their whole paths."""
    router = APIRouter(prefix="/projects")
    router.add_api_route("/{project}", page)
    app = FastAPI(openapi_url=None)
    app.include_router(router, prefix="/api/v1")
    app.mount("/api", Starlette(routes=[Mount("/v1", routes=routes("/auth/login", "/other"))]))
    (hidden,) = await warnings_at_first_request(kit.wrap(app))
    assert "/api/v1/projects/{project}, /api/v1/auth/login. " in hidden


async def test_blacksheep(kit: ProjKit) -> None:
    """BlackSheep's middlewares and routes are named, with the advice to mount."""
    app = Application(router=Router())

    async def check_host(request: Any, handler: Any) -> Any:
        return await handler(request)

    app.middlewares.append(check_host)
    app.router.add_get("/kit/old", page)
    app.router.add_get("/page", page)
    bypassed, hidden = await warnings_at_first_request(kit.wrap(app, prefix="/kit"))
    assert "check_host" in bypassed
    assert 'app.mount("/kit", kit)' in bypassed
    assert "/kit/old. " in hidden


@pytest.mark.parametrize("create", [starlette, fastapi])
async def test_a_mount_at_the_root(kit: ProjKit, create: Callable[[], Any]) -> None:
    """A host with routes of its own next to a kit at / is told what the mount changes; others are not."""
    app = create()
    app.mount("/elsewhere", kit)
    with warned() as messages:
        async with kit.lifespan(app):
            pass
        assert messages == []
        app.mount("/", kit)
        async with kit.lifespan(app):
            pass
    (message,) = messages
    assert "/page, /kit/old" in message
    assert "kit.wrap(app)" in message
    alone = FastAPI()
    alone.mount("/", kit)
    with warned() as messages:
        async with kit.lifespan(alone):
            pass
    assert messages == []


@pytest.fixture(params=["inside", "mounted"])
async def guarded(request: pytest.FixtureRequest, kit: ProjKit) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a host with TrustedHost and CORS, and the kit inside or mounted."""
    host = fastapi()
    if request.param == "mounted":
        host.router.routes.pop()
        host.mount("/kit", kit)
        app = host
    else:
        app = kit.wrap(host, prefix="/kit", inside=True, auth={"/": ()})
    token = token_for(kit.settings, "alice")
    async with (
        kit.lifespan(),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://test",
            headers={"Authorization": f"Bearer {token}"},
        ) as client,
    ):
        yield client


async def test_the_hosts_middlewares_apply(guarded: httpx2.AsyncClient) -> None:
    """Inside the host, a wrong Host gets the host's 400, and the kit's responses have the host's CORS headers."""
    assert (await guarded.get("/kit/api/v1/projects", headers=EVIL)).status_code == 400
    answer = await guarded.get("/kit/api/v1/projects", headers={"Origin": "https://front.example"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://front.example"
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert (await guarded.get("/page")).text == "the host's"


async def test_rules_inside(kit: ProjKit) -> None:
    """Rules inside a host guard its pages, and not the kit's public ones."""
    app = kit.wrap(fastapi(), prefix="/kit", inside=True, auth={"/": ()})
    async with (
        kit.lifespan(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client,
    ):
        assert (await client.get("/page")).status_code == 401
        assert (await client.get("/kit/api/v1/health/live")).status_code == 200


async def test_no_warning_inside(kit: ProjKit) -> None:
    """Inside the middlewares there is nothing to say about them."""
    (hidden,) = await warnings_at_first_request(kit.wrap(starlette(), prefix="/kit", inside=True))
    assert "/kit/old" in hidden


@pytest.mark.parametrize(
    "host", [Quart(__name__), Litestar([], logging_config=None), lambda scope, receive, send: None]
)
def test_hosts_without_an_inside(kit: ProjKit, host: Any) -> None:
    """Other hosts are rejected, with what to do instead."""
    with pytest.raises(ConfigurationError, match="mount the kit instead"):
        kit.wrap(host, inside=True)


async def test_too_late_to_go_inside(kit: ProjKit) -> None:
    """A host that has served a request cannot take the kit inside."""
    host = starlette()
    await call(host, http_scope("/page"))
    with pytest.raises(ConfigurationError, match="before the application serves"):
        kit.wrap(host, inside=True)


@pytest.mark.parametrize("path", ["/kit/nothing", "/kit/api/v1/nothing", "/kit/"])
async def test_unknown_paths_below_the_prefix(kit: ProjKit, path: str) -> None:
    """Unknown paths below the prefix get the kit's 404, others the host's."""
    app = kit.wrap(Starlette(routes=routes("/page")), prefix="/kit")
    sent = await call(app, http_scope(path))
    assert sent[0]["status"] == 404
    assert (b"content-type", b"application/problem+json") in sent[0]["headers"]
    assert (await call(app, http_scope("/kitchen")))[1]["body"] == b"Not Found"
