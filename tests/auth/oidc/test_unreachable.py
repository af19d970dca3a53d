"""Providers that hang, fail or return invalid data: 503 in bounded time, and no redirect is followed."""

import asyncio
import time

import httpx2
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from projkit.auth.oidc import fetch
from tests.auth.oidc.conftest import (
    AUTH,
    Browser,
    OpenKit,
    refused,
    unavailable,
)
from tests.auth.oidc.provider import DISCOVERY, JWKS, TOKEN, OpenIdProvider

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", [DISCOVERY, TOKEN, JWKS])
@pytest.mark.parametrize("failure", ["hanging", "dripping"])
async def test_a_hanging_provider(
    open_kit: OpenKit, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch, path: str, failure: str
) -> None:
    """A provider that never responds, or never completes its response, causes 503 in bounded time at each
    step.
    """
    assert fetch.SECONDS <= 3
    monkeypatch.setattr(fetch, "SECONDS", 0.5)
    setattr(provider, failure, {path})
    async with open_kit() as kit, Browser(kit) as browser:
        began = time.monotonic()
        assert unavailable(await last_answer(browser))
        assert time.monotonic() - began < 10
        assert (await browser.get("/api/v1/health/live")).status_code == 200


@pytest.mark.parametrize("path", [DISCOVERY, TOKEN, JWKS])
async def test_a_hanging_provider_delays_no_other_request(
    open_kit: OpenKit, provider: OpenIdProvider, path: str
) -> None:
    """While a login waits for the provider, it occupies no request slot."""
    provider.hanging = {path}
    narrow = {"max_concurrent_requests": 1, "max_queued_requests": 0, "database_pool_size": 1}
    async with open_kit(**narrow) as kit, Browser(kit) as browser, asyncio.timeout(30):
        waiting = asyncio.create_task(last_answer(browser))
        while not provider.hits[path]:
            await asyncio.sleep(0.01)
        assert (await browser.get(f"{AUTH}/jwks")).status_code == 200
        assert not waiting.done()
        provider.hanging = set()
        assert (await waiting).status_code == 303


async def test_shutting_down_while_a_provider_hangs(open_kit: OpenKit, provider: OpenIdProvider) -> None:
    """The kit stops without waiting for a provider."""
    provider.hanging = {DISCOVERY}
    async with open_kit() as kit, Browser(kit) as browser:
        waiting = asyncio.create_task(browser.start())
        while not provider.hits[DISCOVERY]:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await kit.shutdown()
        assert time.monotonic() - began < 2
        assert unavailable(await waiting)


async def last_answer(browser: Browser) -> httpx2.Response:
    """Return the kit's last response that a browser reaches."""
    answer = await browser.start()
    if answer.status_code != 302:
        return answer
    back = (await browser.get(answer.headers["location"])).headers["location"]
    return await browser.get(back)


@pytest.mark.parametrize("path", [DISCOVERY, TOKEN, JWKS])
@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (JSONResponse({}, 500), True), (JSONResponse({"error": "server_error"}, 503), True),
        (JSONResponse({}, 429), True), (RedirectResponse("/canary", 302), True),
        (RedirectResponse("/canary", 307), True),
        (PlainTextResponse("[" * 5000), False), (PlainTextResponse("[]"), False), (PlainTextResponse("<html>"), False),
        (PlainTextResponse('{"a":1,"a":2}'), False), (PlainTextResponse("<html>", 404), False),
        (PlainTextResponse(), False),
        (JSONResponse({"error": "invalid_client"}, 401), False), (JSONResponse({"keys": 5, "error": 5}), False),
        (JSONResponse({"id_token": "x", "expires_in": "soon", "issuer": 5}), False),
    ],
)  # fmt: skip
async def test_a_provider_that_misbehaves(
    browser: Browser, provider: OpenIdProvider, path: str, answer: Response, trouble: bool
) -> None:
    """For any provider response, a login ends in 503, or 401 if the code is rejected; no redirect is
    followed.
    """
    provider.answers = {path: answer}
    last = await last_answer(browser)
    assert unavailable(last) if trouble or path != TOKEN else refused(last)
    assert provider.hits["/canary"] == 0


@pytest.mark.parametrize("path", [DISCOVERY, TOKEN, JWKS])
async def test_answers_that_are_not_small(browser: Browser, provider: OpenIdProvider, path: str) -> None:
    """A response of 200 kB is read."""
    provider.padding = {path: 200_000}
    assert (await last_answer(browser)).status_code == 303


@pytest.mark.parametrize("path", [DISCOVERY, TOKEN, JWKS])
@pytest.mark.parametrize("failure", ["large", "packed"])
async def test_answers_that_are_too_large(
    browser: Browser, provider: OpenIdProvider, path: str, failure: str
) -> None:
    """A response of more than 256 KiB is not read to its end, nor is a compressed one."""
    if failure == "large":
        provider.padding = {path: 300_000}
    else:
        provider.packed = {path}
    assert unavailable(await last_answer(browser))


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": None}, {"issuer": "https://evil.example"}, {"issuer": "{issuer}/"}, {"jwks_uri": None},
        {"jwks_uri": "http://evil.example/jwks"}, {"token_endpoint": "http://evil.example/token"},
        {"token_endpoint": None}, {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "{issuer}/a\r\nX: y"}, {"authorization_endpoint": "{issuer}/\u00fc"},
        {"authorization_endpoint": "http://[x"}, {"jwks_uri": "file:///etc/passwd"},
    ],
)  # fmt: skip
async def test_discovery(browser: Browser, provider: OpenIdProvider, changes: dict[str, str | None]) -> None:
    """A document about another issuer, or with endpoints that are not https, is not used."""
    provider.metadata_changes = {
        name: None if value is None else value.replace("{issuer}", provider.issuer)
        for name, value in changes.items()
    }
    assert unavailable(await browser.start())
    assert "set-cookie" not in (await browser.start()).headers
