"""Pages in a real browser, and whatever goes wrong in them."""

import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, Page, Route, async_playwright, expect

from tests.services import missing

# A browser in a container, which is to ask nobody for anything by itself.
_ARGUMENTS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# To a kit in development this says that the request was not made on this machine.
ELSEWHERE: Final = {"X-Forwarded-For": "192.0.2.1"}
PHONE: Final = {"width": 360, "height": 740}
STATUS_PAGE: Final = "/api/v1/monitoring"
# The browser's own words on an answer that the page is there to explain.
REFUSED: Final = r"responded with a status of (401|403|429)"
GONE: Final = r"ERR_FAILED|ERR_CONNECTION_REFUSED|status of 503"
AXE: Final = files("axe_playwright_python").joinpath("axe.min.js")

expect.set_options(timeout=20_000)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser, without a window."""
    path = shutil.which("chromium")
    if path is None:
        missing("Chromium is not installed; see scripts/debian-packages")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser,
    url: str,
    *,
    expected: str | None = None,
    before: Callable[[Page], Awaitable[object]] | None = None,
    **context: Any,
) -> AsyncIterator[Page]:
    """A page in a browser of its own, prepared by ``before``, with its console watched.

    Neither a complaint (a failure of a script, a breach of the policy, a request that failed) may be there in the end,
    but for what ``expected`` matches, nor a request to somebody else.
    """
    made = await browser.new_context(timezone_id="UTC", **context)
    page = await made.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on(
        "console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    if before is not None:
        await before(page)
    await page.goto(url)
    yield page
    await made.close()
    assert {urlsplit(each).netloc for each in asked} == {urlsplit(url).netloc}
    assert [each for each in said if expected is None or not re.search(expected, each)] == []


async def violations(page: Page, *rules: str) -> list[str]:
    """What axe finds in the page as it stands, against all of its rules or these."""
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[str] = await page.evaluate(
        """async (rules) => (await axe.run(rules.length ? { runOnly: rules } : {})).violations.flatMap(
             (each) => each.nodes.map((node) => `${each.id}: ${node.html} ${node.failureSummary}`))""",
        rules,
    )
    return found


async def width_of(page: Page) -> int:
    """How wide the page is, in pixels of its own."""
    width: int = await page.evaluate("document.documentElement.scrollWidth")
    return width


async def see_figures(page: Page) -> None:
    """Waits until there are some."""
    await expect(page.locator("#endpoints tr").first).to_be_visible()


async def ask_again(page: Page) -> None:
    """Does not wait for the next round."""
    await page.get_by_role("button", name="Refresh").click()


def check(status: str = "ok", **more: Any) -> dict[str, Any]:
    """One of health's checks."""
    seen = {"latency_ms": 1.5, "observed_at": "2026-06-15T12:00:00.000000Z", "age_seconds": 2.0}
    return {"status": status, "critical": False, **seen, **more}


class Health:
    """Stands in for ``health/detailed`` where a test is about what is said of each state."""

    def __init__(self, **first: Any) -> None:
        self.body: dict[str, Any] = first

    async def answer(self, route: Route) -> None:
        """As health does: 503 where it is in error."""
        status = 503 if self.body["status"] == "error" else 200
        await route.fulfill(status=status, content_type="application/json", body=json.dumps(self.body))

    async def put(self, page: Page) -> None:
        """In place."""
        await page.route("**/health/detailed", self.answer)
