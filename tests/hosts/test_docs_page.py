"""The API docs page in a real browser: requests after a login, examples and collapsed details."""

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from projkit import ProjKit
from tests.auth.users import PASSWORD, add_user
from tests.certificates import CERTIFICATE, KEY, write_certificate
from tests.conftest import PATIENT, serving, settings_for
from tests.web.browsing import opened

pytestmark = pytest.mark.anyio
LOG_IN: Final = """async (content) => (await fetch("auth/login", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(content),
  })).status"""
LOGIN: Final = {"username": "alice", "password": PASSWORD, "transport": "cookie"}
NAMES: Final[dict[str, Any]] = {
    "cookie_host_prefix": True,
    "csrf_cookie_name": "proof",
    "csrf_header_name": "X-Proof",
}


@pytest.fixture
async def docs(sqlite_template: Path, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of the page of a mounted kit, with TLS and its own names of the CSRF cookie and header."""
    shutil.copy(sqlite_template, tmp_path / "projkit.db")
    kit = ProjKit(settings_for(f"sqlite:///{tmp_path}/projkit.db", **PATIENT, **NAMES))
    async with kit.lifespan():
        await add_user(kit, "alice")
    write_certificate(tmp_path)
    host = Starlette(routes=[Mount("/kit", kit)], lifespan=kit.lifespan)
    with serving(host, ssl_certfile=tmp_path / CERTIFICATE, ssl_keyfile=tmp_path / KEY) as url:
        yield f"{url.replace('http:', 'https:')}/kit/api/v1/docs"


async def open_operation(page: Page, name: str) -> Locator:
    """Open an operation and return its block."""
    block = page.locator(f"[id$='-{name}']")
    await block.locator(".opblock-summary-control").click()
    return block


async def test_the_page(browser: Browser, docs: str) -> None:
    """After a login with cookies "Try it out" creates the example's project; errors and headers are collapsed."""
    async with opened(browser, docs, ignore_https_errors=True) as page:
        assert await page.evaluate(LOG_IN, LOGIN) == 200
        block = await open_operation(page, "createProject")
        await check_details(block)
        async with page.expect_response("**/api/v1/projects") as sent:
            await block.get_by_role("button", name="Execute").click()
        answer = await sent.value
        assert answer.status == 201, await answer.text()
        assert (await answer.json())["name"] == "Website relaunch"
        await expect(block.locator(".live-responses-table")).to_contain_text("201")


async def check_details(block: Locator) -> None:
    """Check that errors and headers take one line each until they are opened, and a success shows its example."""
    await expect(block.locator("textarea")).to_have_value(re.compile(r'{\s+"name": "Website relaunch",'))
    await expect(block.locator("tr[data-code='201']")).to_contain_text("0199a3f2-6c1e-7b4a-9d0e-3f5a8c2b7e61")
    missing = block.locator("tr[data-code='422']")
    await expect(block.locator("button[aria-expanded='false']", has_text="invalid values")).to_be_visible()
    assert "urn:projkit:problem" not in await missing.inner_text()
    box = await block.bounding_box()
    assert box is not None
    assert box["height"] < 2500
    await missing.get_by_role("button").click()
    await expect(missing).to_contain_text("urn:projkit:problem:validation")
    await expect(missing).to_contain_text("string_too_short")
    headers = block.locator("tr[data-code='201'] details")
    await expect(headers.get_by_text("X-Process-Time")).to_be_hidden()
    await headers.locator("summary").click()
    await expect(headers.get_by_text("X-Process-Time")).to_be_visible()
