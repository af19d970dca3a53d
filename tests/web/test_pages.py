"""The headers of the HTML pages and their resources."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from projkit import ProjKit
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
POLICY = (
    "default-src 'none'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "script-src 'self'",
    "form-action 'none'",
)


@asynccontextmanager
async def pages(url: str, scheme: str, **settings: Any) -> AsyncIterator[dict[str, httpx2.Response]]:
    """Yield the responses of all public paths without parameters, by path."""
    kit = ProjKit(settings_for(url, **settings))
    transport = httpx2.ASGITransport(app=kit, client=("192.0.2.1", 1234))
    async with kit.lifespan(), httpx2.AsyncClient(transport=transport, base_url=f"{scheme}://host") as client:
        paths = {
            route.path for route in kit.routes if "GET" in (route.methods or ()) and "{" not in route.path
        }
        headers = {"X-Forwarded-Proto": "https", "Accept": "text/html"}
        answers = {path: await client.get(path, headers=headers) for path in sorted(paths)}
    yield {path: answer for path, answer in answers.items() if answer.status_code == 200}


def is_page(answer: httpx2.Response) -> bool:
    """Return whether a response is an HTML page."""
    return answer.headers["content-type"].startswith("text/html")


def is_resource(path: str) -> bool:
    """Return whether a path is a resource of a page."""
    return "/docs/" in path or "/assets/" in path


async def test_every_public_page(sqlite_url: str) -> None:
    """Each public page has all security headers and no inline script."""
    async with pages(sqlite_url, "http") as found:
        html = {path: answer for path, answer in found.items() if is_page(answer)}
        assert html.keys() == {"/api/v1/docs", "/api/v1/monitoring"}
        for answer in html.values():
            for name, value in HEADERS.items():
                assert answer.headers[name] == value
            policy = answer.headers["content-security-policy"].split("; ")
            assert set(POLICY) <= set(policy)
            assert not any("unsafe-eval" in each for each in policy)
            (scripts,) = [each for each in policy if each.startswith("script-src")]
            assert scripts == "script-src 'self'"
            assert "camera=()" in answer.headers["permissions-policy"]
            assert "<script>" not in answer.text
            assert "style=" not in answer.text


async def test_page_resources(sqlite_url: str) -> None:
    """Every response has nosniff, and resources can only be loaded by the same origin."""
    async with pages(sqlite_url, "http") as found:
        assert all(answer.headers["x-content-type-options"] == "nosniff" for answer in found.values())
        loaded = [answer for path, answer in found.items() if is_resource(path)]
        assert len(loaded) == 5 + 10
        assert {answer.headers["cross-origin-resource-policy"] for answer in loaded} == {"same-origin"}


@pytest.mark.parametrize(
    ("scheme", "settings", "strict"),
    [
        ("https", {"env": "production"}, True),
        ("http", {"env": "production"}, False),  # X-Forwarded-Proto from an untrusted client
        ("http", {"env": "production", "trusted_proxies": ("192.0.2.0/24",)}, True),
        ("https", {"env": "development"}, False),
        ("http", {"env": "development", "trusted_proxies": ("192.0.2.0/24",)}, False),
    ],
)
async def test_strict_transport_security(
    sqlite_url: str, scheme: str, settings: dict[str, Any], strict: bool
) -> None:
    """Strict-Transport-Security is sent only in production and only over https (RFC 6797)."""
    async with pages(sqlite_url, scheme, **settings) as found:
        for path, answer in found.items():
            if is_page(answer) or is_resource(path):
                value = answer.headers.get("strict-transport-security")
                assert value == ("max-age=31536000" if strict else None)


async def test_status_page_configuration(sqlite_url: str) -> None:
    """The CSRF header and cookie and the use of tenants are written into the pages."""
    async with pages(sqlite_url, "http") as found:
        plain = found["/api/v1/monitoring"].text
    assert 'data-csrf-header="X-CSRF-Token" data-csrf-cookie="csrf_token" data-tenants="no"' in plain
    other = {"csrf_header_name": "X-Proof", "csrf_cookie_name": "proof", "cookie_host_prefix": True}
    async with pages(sqlite_url, "https", tenant_claim="org", **other) as found:
        changed = found["/api/v1/monitoring"]
    assert 'data-csrf-header="X-Proof" data-csrf-cookie="__Host-proof" data-tenants="yes"' in changed.text
    assert 'data-csrf-header="X-Proof" data-csrf-cookie="__Host-proof"' in found["/api/v1/docs"].text
