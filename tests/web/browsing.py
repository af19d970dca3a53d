"""Pages in a real browser, with their errors collected."""

import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, Error, Page, Route, async_playwright, expect

from tests.services import missing

# A browser in a container, which must send no requests of its own.
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
    """Run a headless browser."""
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
    """Open a page in a new browser context, prepared by ``before``.

    At the end, the console must contain no errors or warnings (failing scripts, policy violations, failed requests)
    except those that ``expected`` matches, and there must have been no request to another server.
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
    """Return the accessibility violations that axe finds, for all of its rules or the given ones."""
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[str] = await page.evaluate(
        """async (rules) => (await axe.run(rules.length ? { runOnly: rules } : {})).violations.flatMap(
             (each) => each.nodes.map((node) => `${each.id}: ${node.html} ${node.failureSummary}`))""",
        rules,
    )
    return found


async def width_of(page: Page) -> int:
    """Return the width of the page in CSS pixels."""
    width: int = await page.evaluate("document.documentElement.scrollWidth")
    return width


async def see_metrics(page: Page) -> None:
    """Wait until metrics are shown."""
    await expect(page.locator("#endpoints tr").first).to_be_visible()


async def refresh(page: Page) -> None:
    """Refresh at once."""
    await page.get_by_role("button", name="Refresh").click()


def check(status: str = "ok", **more: Any) -> dict[str, Any]:
    """Create a health check of the response."""
    seen = {"latency_ms": 1.5, "observed_at": "2026-06-15T12:00:00.000000Z", "age_seconds": 2.0}
    since = "2026-06-15T12:00:00.000000Z" if status == "error" else None
    return {"status": status, "critical": False, **seen, "failing_since": since, "changes": [], **more}


async def calm(page: Page) -> None:
    """Report low latencies to a page, however busy the machine is: they decide what its headline says."""

    async def performance(route: Route) -> None:
        try:
            content = await (await route.fetch()).json()
        except Error:  # the server has stopped
            await route.abort()
            return
        for each in content["last_5_minutes"]["endpoints"]:
            each["p95_ms"] = 1.0
        await route.fulfill(json=content)

    await page.route("**/metrics/performance", performance)


class Health:
    """A stand-in for ``health/detailed``."""

    def __init__(self, **first: Any) -> None:
        self.body: dict[str, Any] = first

    async def answer(self, route: Route) -> None:
        """Respond as health does, with 503 for an error."""
        status = 503 if self.body["status"] == "error" else 200
        await route.fulfill(status=status, content_type="application/json", body=json.dumps(self.body))

    async def put(self, page: Page) -> None:
        """Install the stand-in on a page."""
        await page.route("**/health/detailed", self.answer)
