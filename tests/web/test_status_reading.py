"""The status page in a real browser: phone, keyboard, accessibility, no scripts, unusual names."""

from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.web.browsing import (
    ELSEWHERE,
    GONE,
    PHONE,
    REFUSED,
    STATUS_PAGE,
    Health,
    check,
    opened,
    refresh,
    see_metrics,
    violations,
    width_of,
)

pytestmark = pytest.mark.anyio


async def test_phone(browser: Browser, root: str) -> None:
    """At 360 pixels nothing is wider than the screen, however long names are."""
    long = "x" * 500
    health = Health(status="degraded", checks={long: check("error", detail=long)})

    async def database(route: Route) -> None:
        content = await (await route.fetch()).json()
        slow = {"statement": f"SELECT {long}", "count": 1, "mean_ms": 1.0, "max_ms": 1.0}
        await route.fulfill(json={**content, "slow_statements": [slow], "errors": {long: 1}})

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["last_5_minutes"]["endpoints"][0]["route"] = f"/{long}"
        await route.fulfill(json=content)

    async with opened(browser, f"{root}{STATUS_PAGE}", viewport=PHONE, is_mobile=True) as page:
        await see_metrics(page)
        assert await width_of(page) == 360
        await health.put(page)
        await page.route("**/metrics/database", database)
        await page.route("**/metrics/performance", performance)
        await refresh(page)
        await expect(page.locator("#slow-statements")).to_contain_text(long)
        for each in await page.locator("summary").all():
            await each.click() if await each.is_visible() else None
        assert await width_of(page) == 360
    async with opened(
        browser, f"{root}{STATUS_PAGE}", expected=REFUSED, viewport=PHONE, extra_http_headers=ELSEWHERE
    ) as page:
        await expect(page.locator("#login")).to_be_visible()
        assert await width_of(page) == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_accessibility(browser: Browser, root: str, scheme: Any) -> None:
    """axe finds no violation in metrics, failures or the form, in either color scheme."""
    failing = {
        "a": check("error", critical=True, detail="is down"),
        "b": check("error"),
        "c": check("unknown"),
    }
    async with opened(browser, f"{root}{STATUS_PAGE}", expected=GONE, color_scheme=scheme) as page:
        await see_metrics(page)
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 128) is (scheme == "dark")
        await Health(status="error", checks=failing).put(page)
        await refresh(page)
        await expect(page.locator(".component .status", has_text="failing")).to_have_count(2)
        for each in await page.locator("main summary:visible").all():
            await each.click()
        # Between the schemes nothing differs but colours.
        rules = ("color-contrast",) if scheme == "dark" else ()
        assert await violations(page, *rules) == []
    async with opened(
        browser, f"{root}{STATUS_PAGE}", expected=REFUSED, color_scheme=scheme, extra_http_headers=ELSEWHERE
    ) as page:
        await page.get_by_text("Use a token instead").click()
        assert await violations(page, *rules) == []


async def test_keyboard(browser: Browser, root: str) -> None:
    """Every control is reachable by Tab with visible focus, and sorting by Enter keeps the focus."""
    async with opened(browser, f"{root}{STATUS_PAGE}") as page:
        await see_metrics(page)
        controls = page.locator("button:visible, summary:visible, a:visible, [tabindex='0']:visible")
        reached = []
        for _ in range(await controls.count()):
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate("document.activeElement.textContent"))
            assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert reached == await controls.all_text_contents()
        head = page.get_by_role("columnheader", name="Endpoint")
        await head.get_by_role("button").focus()
        for order in ("ascending", "descending"):
            await page.keyboard.press("Enter")
            await expect(head).to_have_attribute("aria-sort", order)
            names = await page.locator("#endpoints th").all_text_contents()
            routes = [name.partition(" ")[2].replace("unknown paths", "__unknown__") for name in names]
            assert routes == sorted(routes, reverse=order == "descending")
            async with page.expect_response("**/metrics/performance"):
                await page.evaluate("document.getElementById('refresh').click()")
            await expect(head.get_by_role("button")).to_be_focused()


async def test_html_is_escaped(browser: Browser, root: str) -> None:
    """Text from the server is never interpreted as HTML."""
    html = "<img src=x onerror=alert(1)><b>bold</b>"
    health = Health(status="error", version=html, checks={html: check("error", detail=html)})

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["last_5_minutes"]["endpoints"][0]["route"] = html
        await route.fulfill(json=content)

    async def database(route: Route) -> None:
        content = await (await route.fetch()).json()
        slow = {"statement": html, "count": 1, "mean_ms": 1.0, "max_ms": 1.0}
        await route.fulfill(json={**content, "slow_statements": [slow], "detail": html, "reachable": False})

    async def prepare(page: Page) -> None:
        await health.put(page)
        await page.route("**/metrics/performance", performance)
        await page.route("**/metrics/database", database)

    async with opened(browser, f"{root}{STATUS_PAGE}", expected=GONE, before=prepare) as page:
        await expect(page.locator("#slow-statements")).to_contain_text(html)
        for place in ("#summary", "#component-list", "#endpoints", "#database-error", "#about"):
            await expect(page.locator(place)).to_contain_text(html)
        assert await page.locator("img, #slow-statements b, #summary *").count() == 0


async def test_without_javascript(browser: Browser, root: str) -> None:
    """Without JavaScript the page explains that and links to the data."""
    async with opened(browser, f"{root}{STATUS_PAGE}", java_script_enabled=False) as page:
        assert "This page requires JavaScript" in str(await page.locator("noscript").text_content())
        assert await page.locator("main > :visible:not(noscript)").count() == 0
