"""The status page in a real browser: a healthy, a failing and an unreachable service."""

import asyncio
import re
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Request, Route, expect

from projkit import ProjKit, Settings
from tests.conftest import serving
from tests.web.browsing import (
    GONE,
    STATUS_PAGE,
    Health,
    calm,
    check,
    opened,
    refresh,
    see_metrics,
    violations,
)
from tests.web.conftest import make_requests

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["root", "mounted"])
def place(request: pytest.FixtureRequest) -> str:
    """Both kits."""
    return str(request.getfixturevalue(request.param))


async def test_metrics(browser: Browser, place: str) -> None:
    """At any mount the page shows status, components, requests, endpoints, database and version."""
    async with opened(browser, f"{place}{STATUS_PAGE}", before=calm) as page:
        await see_metrics(page)
        await expect(page.locator("#summary")).to_have_text("All systems operational")
        await expect(page.locator(".component", has_text="database")).to_contain_text("critical")
        listed = page.get_by_role("row", name=f"GET {urlsplit(place).path}/api/v1/projects 7 0")
        await expect(listed).to_contain_text(re.compile("(meets|over) 40 ms"))
        await expect(page.locator("#endpoints")).to_contain_text("unknown paths")
        await expect(page.locator("#pool")).to_contain_text("none waiting")
        await expect(page.locator("#database-facts")).to_contain_text("sqlite")
        await expect(page.locator("#chart svg path.requests")).to_have_count(1)
        await expect(page.locator("#chart-rows tr")).not_to_have_count(0)
        await expect(page.locator("#about")).to_contain_text("1 worker")
        answer = await page.request.get(str(await page.locator("footer a").first.evaluate("a => a.href")))
        assert answer.url == f"{place}/api/v1/docs"


NOT_CONFIGURED: Final = check("not_configured", latency_ms=None, observed_at=None, age_seconds=None)
STATES: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"status": "ok", "checks": {"redis": check(), "celery": NOT_CONFIGURED}}, "ok", "All systems operational"),
    (
        {"status": "degraded", "checks": {"redis": check("error", detail="unavailable (ConnectionError)")}},
        "degraded",
        "Degraded: redis (unavailable since 15 Jun, 12:00)",
    ),
    (
        {"status": "error", "checks": {
            "redis": check("error", detail="full"),
            "database": check("error", critical=True, detail="timed out (TimeoutError)"),
            "disk": check("unknown", detail="not checked yet"),
        }},
        "error",
        "Down: database (timed out since 15 Jun, 12:00), redis (full since 15 Jun, 12:00), 1 more",
    ),
    ({"status": "ok", "state": "ready", "checks": {"redis": check()}}, "ok", "All systems operational"),
    ({"status": "degraded", "checks": {"disk": check("unknown")}}, "degraded", "Degraded: disk (not checked yet)"),
    ({"status": "error", "state": "starting", "checks": {}}, "unknown", "Starting"),
    ({"status": "error", "state": "draining", "checks": {}}, "degraded",
     "Draining: still serving requests, about to stop"),
    ({"status": "error"}, "error", "Down"),
]  # fmt: skip


async def test_states(browser: Browser, root: str) -> None:
    """Each status is shown as a sentence, in the title and by a shape, and failing components with their detail."""
    health = Health(**STATES[0][0])
    async with opened(browser, f"{root}{STATUS_PAGE}", expected=GONE, before=calm) as page:
        await health.put(page)
        for body, level, sentence in STATES:
            health.body = body
            await refresh(page)
            await expect(page.locator("#summary")).to_have_text(sentence)
            await expect(page).to_have_title(f"{sentence} · status")
            await expect(page.locator(f"#headline-icon svg.{level}")).to_have_count(1)
            for name, each in body.get("checks", {}).items():
                words = {"error": "failing", "unknown": "not seen", "not_configured": "not configured"}
                word = words.get(each["status"], each["status"])
                light = page.locator(".component", has_text=name)
                await expect(light.locator(".status")).to_have_text(word)
                await expect(light).to_contain_text(
                    each.get("detail", name if word == "not configured" else "1.5 ms")
                )


async def test_failing_and_stopped_server(browser: Browser, settings: Settings) -> None:
    """A failing check appears in the headline; if the server stops, that does, and old data remains."""
    kit, working = ProjKit(settings), True
    kit.add_health_check("mail", lambda: working, period=0.1)
    with ExitStack() as server:
        url = server.enter_context(serving(kit))
        await make_requests(url, settings)
        async with opened(browser, f"{url}{STATUS_PAGE}", expected=GONE, before=calm) as page:
            await see_metrics(page)
            await expect(page.locator("#summary")).to_have_text("All systems operational")
            working = False
            await asyncio.sleep(0.5)  # until it has been looked at
            await refresh(page)
            await expect(page.locator("#summary")).to_contain_text("Degraded: mail (returned False since ")
            server.close()
            await refresh(page)
            await expect(page.locator("#summary")).to_have_text("The server is not responding")
            await expect(page.locator("#summary-details")).to_contain_text("Last response at")
            await expect(page.locator("body[data-stale]")).to_have_count(1)
            assert await violations(page, "color-contrast") == []
            await see_metrics(page)


async def test_refresh_interval(browser: Browser, root: str) -> None:
    """The page refreshes every five seconds, less often while unreachable, and never while hidden or paused."""
    asked = 0
    gone = False
    under_way = 0

    async def health(route: Route) -> None:
        nonlocal asked
        asked += 1
        await (route.abort() if gone else route.fulfill(json={"status": "ok"}))

    def began(_: Request) -> None:
        nonlocal under_way
        under_way += 1

    def ended(_: Request) -> None:
        nonlocal under_way
        under_way -= 1

    async def prepare(page: Page) -> None:
        await calm(page)
        await page.route("**/health/detailed", health)
        page.on("request", began)
        page.on("requestfinished", ended)
        page.on("requestfailed", ended)
        await page.clock.install(time=0)

    async def settled() -> None:
        quiet = 0
        while quiet < 5:
            await asyncio.sleep(0.02)
            quiet = 0 if under_way else quiet + 1

    async def asks_within(seconds: int) -> bool:
        await settled()
        before = asked
        await page.clock.run_for(seconds * 1000)
        await settled()
        return asked > before

    async def become(hidden: bool) -> None:
        await page.evaluate(
            """hidden => {
                Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            hidden,
        )

    async with opened(browser, f"{root}{STATUS_PAGE}", expected=GONE, before=prepare) as page:
        await see_metrics(page)
        await page.clock.pause_at(3_600_000)
        await asks_within(5)
        assert not await asks_within(4)
        assert await asks_within(2)
        await become(hidden=True)
        assert not await asks_within(60)
        await become(hidden=False)
        await page.get_by_role("button", name="Pause").click()
        assert not await asks_within(60)
        gone = True
        await page.get_by_role("button", name="Paused").click()
        await expect(page.locator("#summary")).to_have_text("The server is not responding")
        assert not await asks_within(9)
        assert await asks_within(2)
        assert not await asks_within(19)
        gone = False
        assert await asks_within(2)
        await expect(page.locator("#summary")).to_have_text("All systems operational")
        assert await page.locator("body[data-stale]").count() == 0


async def test_windows(browser: Browser, root: str) -> None:
    """The metrics are those of the selected window."""

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["requests"] = 4000
        for number, minutes in enumerate(("1_minute", "5_minutes", "15_minutes"), 1):
            content[f"last_{minutes}"]["requests"] = 1000 * number
        await route.fulfill(json=content)

    async with opened(
        browser, f"{root}{STATUS_PAGE}", before=lambda page: page.route("**/metrics/performance", performance)
    ) as page:
        await see_metrics(page)
        total = page.locator("#totals dd").first
        await expect(total).to_contain_text("2,000")
        for name, shown in (("1 min", "1,000"), ("15 min", "3,000"), ("Since start", "4,000")):
            button = page.get_by_role("button", name=name, exact=True)
            await button.click()
            await expect(button).to_have_attribute("aria-pressed", "true")
            await expect(page.locator("#windows [aria-pressed=true]")).to_have_count(1)
            await expect(total).to_contain_text(shown)


async def test_missed_targets(browser: Browser, root: str) -> None:
    """An endpoint that misses its target is marked, counted, and always shown."""

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["last_5_minutes"]["endpoints"] = [
            {"method": "GET", "route": f"/{name}", "count": count, "p95_ms": p95, **FIGURES}
            for name, count, p95 in (
                *((f"r{n}", 100 + n, 2.0) for n in range(12)),
                ("late", 20, 40.1),
                ("few", 19, 90),
            )
        ]
        await route.fulfill(json=content)

    async with opened(
        browser, f"{root}{STATUS_PAGE}", before=lambda page: page.route("**/metrics/performance", performance)
    ) as page:
        rows = page.locator("#endpoints tr")
        await expect(rows).to_have_count(11)
        await expect(rows.last).to_contain_text("GET /late")
        await expect(rows.last).to_contain_text("misses 40 ms")
        await expect(page.locator("#summary-details")).to_contain_text("1 endpoint over target")
        await page.get_by_role("button", name="Show all 14").click()
        await expect(rows).to_have_count(14)
        await expect(rows.last).to_contain_text("over 40 ms (few requests)")


FIGURES: Final = {
    "kind": "projects", "errors": 0, "error_rate": 0.0, "p50_ms": 1.0, "p99_ms": 90.0, "target_ms": 40.0,
    "last_error_at": None,
}  # fmt: skip
# Endpoints as (requests, p95), the errors among all requests, and the health.
JUDGED: Final[list[tuple[list[tuple[int, float]], int, dict[str, Any], str, str]]] = [
    ([(100, 80.0), (50, 41.0), (5, 500.0)], 0, {"status": "ok"}, "error", "Slow: all 2 endpoints miss their targets"),
    ([(100, 80.0)], 0, {"status": "ok"}, "error", "Slow: 1 endpoint misses its target"),
    ([(100, 8.0), (99, 41.0)], 0, {"status": "ok"}, "degraded", "Slow: 1 of 2 endpoints misses its target"),
    ([(99, 8.0), (60, 41.0), (60, 41.0)], 0, {"status": "ok"}, "error", "Slow: 2 of 3 endpoints miss their targets"),
    ([(100, 8.0)], 1, {"status": "ok"}, "degraded",
     "Failing: 1 % of requests got a server error (1 of 100)"),
    ([(100, 80.0)], 12, {"status": "ok"}, "error", "Failing: 12 % of requests got a server error (12 of 100)"),
    ([(10, 80.0)], 9, {"status": "ok"}, "ok", "All systems operational"),
    ([(100, 8.0), (99, 41.0)], 0, {"status": "degraded", "checks": {"disk": check("error", detail="full")}}, "degraded",
     "Degraded: disk (full since 15 Jun, 12:00)"),
    ([(100, 80.0)], 0, {"status": "degraded", "checks": {"disk": check("error", detail="full")}}, "error",
     "Slow: 1 endpoint misses its target; disk (full since 15 Jun, 12:00)"),
    ([(100, 80.0)], 0, {"status": "error", "checks": {"disk": check("error", detail="full")}}, "error",
     "Down: disk (full since 15 Jun, 12:00)"),
]  # fmt: skip


async def test_targets_in_the_headline(browser: Browser, root: str) -> None:
    """The headline tells when targets are missed or requests fail, with the numbers, and is not green then."""
    health = Health(status="ok")
    shown: dict[str, Any] = {}

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["last_5_minutes"] |= shown
        await route.fulfill(json=content)

    async def prepare(page: Page) -> None:
        await health.put(page)
        await page.route("**/metrics/performance", performance)

    async with opened(browser, f"{root}{STATUS_PAGE}", expected=GONE, before=prepare) as page:
        for endpoints, errors, body, level, sentence in JUDGED:
            requests = sum(count for count, _ in endpoints)
            health.body = body
            shown.update(
                requests=requests,
                errors=errors,
                error_rate=errors / requests,
                endpoints=[
                    {"method": "GET", "route": f"/{number}", "count": count, "p95_ms": p95, **FIGURES}
                    for number, (count, p95) in enumerate(endpoints)
                ],
            )
            await refresh(page)
            await expect(page.locator("#summary")).to_have_text(sentence)
            await expect(page.locator(f"#headline[data-level={level}]")).to_have_count(1)
        await expect(page.locator("#summary-details")).to_contain_text(
            "over target: GET /0, p95 80 ms of 40 ms"
        )


async def test_routes_without_a_target(browser: Browser, root: str) -> None:
    """The host's routes and the kit's reports have no target, so they neither miss one nor change the headline."""

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["last_5_minutes"]["endpoints"] = [
            {"method": "GET", "route": f"/{kind}", "count": 100, "p95_ms": 500.0, **FIGURES, "kind": kind}
            for kind in (None, "monitoring", "validation", "page", "__other__")
        ]
        await route.fulfill(json=content)

    async with opened(
        browser, f"{root}{STATUS_PAGE}", before=lambda page: page.route("**/metrics/performance", performance)
    ) as page:
        await expect(page.locator("#endpoints tr", has_text="no target")).to_have_count(5)
        await expect(page.locator("#summary")).to_have_text("All systems operational")
        await expect(page.locator("#summary-details")).to_contain_text("no missed targets")


async def test_history_of_a_component(browser: Browser, root: str) -> None:
    """A component shows since when it fails in any worker, and its last changes, which stay open."""
    failing = check(
        "error",
        detail="is down",
        changes=[
            {"at": "2026-06-15T12:00:00.000000Z", "status": "error", "detail": "timed out"},
            {"at": "2026-06-15T11:00:00.000000Z", "status": "ok"},
        ],
    )
    once = check(changes=[{"at": "2026-06-15T11:00:00.000000Z", "status": "ok"}])

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["checks"] = [
            {"name": "mail", "critical": False, "healthy": False, "failing_since": "2026-06-15T11:45:00Z"}
        ]
        content["last_5_minutes"]["endpoints"] = []
        await route.fulfill(json=content)

    async def prepare(page: Page) -> None:
        await Health(status="degraded", checks={"mail": failing, "disk": once}).put(page)
        await page.route("**/metrics/performance", performance)

    async with opened(browser, f"{root}{STATUS_PAGE}", before=prepare) as page:
        mail = page.locator(".component", has_text="mail")
        await expect(mail).to_contain_text("since 15 Jun, 11:45")
        await expect(page.locator("#summary")).to_have_text("Degraded: mail (is down since 15 Jun, 11:45)")
        await mail.get_by_text("Last 2 changes").click()
        shown = mail.locator(".changes li")
        await expect(shown).to_have_text(["15 Jun, 12:00 failing: timed out", "15 Jun, 11:00 ok"])
        await refresh(page)
        await expect(mail.locator("details[open]")).to_have_count(1)
        await mail.get_by_text("Last 2 changes").click()
        await expect(page.locator(".component", has_text="disk").locator("details")).to_have_count(0)


@pytest.mark.parametrize(
    ("source", "cpu", "memory"),
    [
        ("cgroup", "63 %of the container's 0.5 · load 1, 2, 3", "42 %297 MiB free in the container"),
        ("machine", "63 %load 1, 2, 3", "42 %297 MiB free"),
    ],
)
async def test_container(browser: Browser, root: str, source: str, cpu: str, memory: str) -> None:
    """CPU and memory say when they are those of the container."""
    system = {
        "cpu_percent": 63.0,
        "cpu": {"source": source, "cpus": 0.5},
        "load_average": [1, 2, 3],
        "memory": {"source": source, "available_bytes": 311427072, "used_percent": 42.0},
    }
    health = Health(status="ok", checks={}, system=system)
    async with opened(browser, f"{root}{STATUS_PAGE}", before=health.put) as page:
        values = page.locator("#system dd")
        await expect(values.nth(0)).to_have_text(cpu)
        await expect(values.nth(1)).to_have_text(memory)
