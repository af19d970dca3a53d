"""The status page, in a real browser: what people see of a service that is well, ill or gone."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from playwright.async_api import Browser, Page, Request, Route, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from projkit import ProjKit, Settings
from tests.auth.people import PASSWORD, add_user
from tests.conftest import PATIENT, serving, settings_for, token_for
from tests.web.browsing import ELSEWHERE, PHONE, chromium, opened, violations, width_of

pytestmark = pytest.mark.anyio

PAGE: Final = "/api/v1/monitoring"
# The browser's own words on an answer that the page is there to explain.
REFUSED: Final = r"responded with a status of (401|403|429)"
GONE: Final = r"ERR_FAILED|ERR_CONNECTION_REFUSED|status of 503"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module, since the browser belongs to it."""
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """Chromium."""
    async with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def settings(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Those of the kit that is looked at."""
    path = tmp_path_factory.mktemp("status") / "projkit.db"
    shutil.copy(sqlite_template, path)
    return settings_for(f"sqlite:///{path}", login_limit_account="2/5 minutes", **PATIENT)


@pytest.fixture(scope="module")
async def root(anyio_backend: str, settings: Settings) -> AsyncIterator[str]:
    """Where the kit is served on its own, with a few requests behind it."""
    kit = ProjKit(settings)
    async with kit.lifespan():
        await add_user(kit, "alice", scopes=("monitoring:read",))
        await add_user(kit, "bob")
    with serving(ProjKit(settings)) as url:
        await make_requests(url, settings)
        yield url


@pytest.fixture(scope="module")
async def mounted(anyio_backend: str, settings: Settings) -> AsyncIterator[str]:
    """Where another kit is mounted, in a host."""
    kit = ProjKit(settings)
    host = Starlette(routes=[Mount("/kit", kit)], lifespan=kit.lifespan)
    with serving(host) as url:
        await make_requests(f"{url}/kit", settings)
        yield f"{url}/kit"


async def make_requests(url: str, settings: Settings) -> None:
    """Seven requests of one kind and one of another."""
    headers = {"Authorization": f"Bearer {token_for(settings, 'alice')}"}
    async with httpx2.AsyncClient(base_url=f"{url}/api/v1", headers=headers) as client:
        for _ in range(7):
            assert (await client.get("/projects")).status_code == 200
        assert (await client.get("/nowhere")).status_code == 404


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


@pytest.fixture(params=["root", "mounted"])
def place(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return str(request.getfixturevalue(request.param))


async def test_figures(browser: Browser, place: str) -> None:
    """At any mount it shows what was really asked: verdict, components, requests, endpoints, database, version."""
    async with opened(browser, f"{place}{PAGE}") as page:
        await see_figures(page)
        await expect(page.locator("#sentence")).to_have_text("All is well")
        await expect(page.locator(".light", has_text="database")).to_contain_text("critical")
        listed = page.get_by_role("row", name="GET /api/v1/projects 7 0")
        await expect(listed).to_contain_text(re.compile("(meets|over) 40 ms"))
        await expect(page.locator("#endpoints")).to_contain_text("unknown paths")
        await expect(page.locator("#pool")).to_contain_text("nobody waiting")
        await expect(page.locator("#database-facts")).to_contain_text("sqlite")
        await expect(page.locator("#chart svg path.requests")).to_have_count(1)
        await expect(page.locator("#moments tr")).not_to_have_count(0)
        await expect(page.locator("#about")).to_contain_text("1 worker")
        answer = await page.request.get(str(await page.locator("footer a").first.evaluate("a => a.href")))
        assert answer.url == f"{place}/api/v1/docs"


NOT_CONFIGURED: Final = check("not_configured", latency_ms=None, observed_at=None, age_seconds=None)
STATES: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"status": "ok", "checks": {"redis": check(), "celery": NOT_CONFIGURED}}, "ok", "All is well"),
    (
        {"status": "degraded", "checks": {"redis": check("error", detail="does not answer (ConnectionError)")}},
        "degraded",
        "Degraded: redis does not answer since 12:00:00",
    ),
    (
        {"status": "error", "checks": {
            "redis": check("error", detail="is full"),
            "database": check("error", critical=True, detail="does not answer in time (TimeoutError)"),
            "disk": check("unknown", detail="not seen yet"),
        }},
        "error",
        "Down: database does not answer in time since 12:00:00; redis is full since 12:00:00; 1 more",
    ),
    ({"status": "ok", "state": "ready", "checks": {"redis": check()}}, "ok", "All is well"),
    ({"status": "degraded", "checks": {"disk": check("unknown")}}, "degraded", "Degraded: disk was not seen yet"),
    ({"status": "error", "state": "starting", "checks": {}}, "unknown", "Starting"),
    ({"status": "error", "state": "draining", "checks": {}}, "degraded",
     "Draining: requests are answered, new ones should go elsewhere"),
    ({"status": "error"}, "error", "Down"),
]  # fmt: skip


async def test_states(browser: Browser, root: str) -> None:
    """Each state is said in one sentence, in the title too, and shown by a shape; each failing part says what it is."""
    health = Health(**STATES[0][0])
    async with opened(browser, f"{root}{PAGE}", expected=GONE) as page:
        await health.put(page)
        for body, level, sentence in STATES:
            health.body = body
            await ask_again(page)
            await expect(page.locator("#sentence")).to_have_text(sentence)
            await expect(page).to_have_title(f"{sentence} · status")
            await expect(page.locator(f"#headline-icon svg.{level}")).to_have_count(1)
            for name, each in body.get("checks", {}).items():
                word = {"error": "failing", "not_configured": "not configured"}.get(
                    each["status"], each["status"]
                )
                light = page.locator(".light", has_text=name)
                await expect(light.locator(".word")).to_have_text(word)
                await expect(light).to_contain_text(
                    each.get("detail", name if word == "not configured" else "1.5 ms")
                )


async def test_logging_in_and_out(browser: Browser, root: str) -> None:
    """Whoever is not let in gets a form; a wrong password is said so; the session lasts until one logs out."""
    async with opened(browser, f"{root}{PAGE}", expected=REFUSED, extra_http_headers=ELSEWHERE) as page:
        form, figures = page.locator("#login"), page.locator("#figures")
        await expect(form).to_be_visible()
        await expect(figures).to_be_hidden()
        await page.get_by_label("User name").fill("alice")
        await page.get_by_label("Password").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in").click()
        await see_figures(page)
        await expect(form).to_be_hidden()
        await expect(page.locator("#who")).to_have_text("alice")
        await page.reload()
        await see_figures(page)
        await page.context.clear_cookies(name="auth_token")  # as when it has expired
        await ask_again(page)
        names = {cookie.get("name") for cookie in await page.context.cookies(f"{root}{PAGE}")}
        async with page.expect_response("**/auth/logout") as ended:
            await page.get_by_role("button", name="Log out").click()
        assert (await ended.value).status == 204
        await expect(form).to_be_visible()
        await expect(figures).to_be_hidden()
        assert "csrf_token" in names
        assert {cookie.get("name") for cookie in await page.context.cookies()} <= {"known_device"}


async def test_without_the_scope(browser: Browser, root: str) -> None:
    """Whoever may not see the figures is told which scope is missing."""
    async with opened(browser, f"{root}{PAGE}", expected=REFUSED, extra_http_headers=ELSEWHERE) as page:
        await page.get_by_label("User name").fill("bob")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_contain_text("do not include monitoring:read")
        await expect(page.locator("#figures")).to_be_hidden()
        await expect(page.get_by_role("button", name="Log out")).to_be_visible()


async def test_too_many_attempts(browser: Browser, root: str) -> None:
    """Whoever has guessed too often is told when to try again."""
    async with opened(browser, f"{root}{PAGE}", expected=REFUSED, extra_http_headers=ELSEWHERE) as page:
        alert = page.get_by_role("alert")
        for said in ("is wrong", "is wrong", "Try again in "):
            await page.get_by_label("User name").fill("mallory")
            await page.get_by_label("Password").fill("guess")
            await page.get_by_role("button", name="Log in").click()
            await expect(page.locator("#login-button")).to_be_enabled()
            await expect(alert).to_contain_text(said)


async def test_a_token(browser: Browser, root: str, settings: Settings) -> None:
    """A pasted token opens the figures, is kept nowhere, and can be forgotten; a bad one is refused in words."""
    token = token_for(settings, "carol", ("monitoring:read",))
    async with opened(browser, f"{root}{PAGE}", expected=REFUSED, extra_http_headers=ELSEWHERE) as page:
        await page.get_by_text("Use a token instead").click()
        for wrong, said in (("zwölf", "That is not a token."), ("a.b.c", "not valid here, or no longer")):
            await page.get_by_label("Bearer token").fill(wrong)
            await page.get_by_role("button", name="Use the token").click()
            await expect(page.get_by_role("alert")).to_contain_text(said)
        await page.get_by_label("Bearer token").fill(token)
        await page.keyboard.press("Enter")
        await see_figures(page)
        await expect(page.locator("#who")).to_have_text("carol")
        kept = await page.evaluate(
            "[document.cookie, localStorage.length, sessionStorage.length, location.href]"
        )
        assert kept == ["", 0, 0, f"{root}{PAGE}"]
        await page.get_by_role("button", name="Forget the token").click()
        await expect(page.locator("#login")).to_be_visible()


async def test_until_it_stops(browser: Browser, settings: Settings) -> None:
    """A real check that begins to fail is the headline; when nothing answers any more that is, and old figures stay."""
    kit, working = ProjKit(settings), True
    kit.add_health_check("mail", lambda: working, period=0.1)
    with ExitStack() as server:
        url = server.enter_context(serving(kit))
        await make_requests(url, settings)
        async with opened(browser, f"{url}{PAGE}", expected=GONE) as page:
            await see_figures(page)
            await expect(page.locator("#sentence")).to_have_text("All is well")
            working = False
            await asyncio.sleep(0.5)  # until it has been looked at
            await ask_again(page)
            await expect(page.locator("#sentence")).to_contain_text("Degraded: mail returned False since ")
            server.close()
            await ask_again(page)
            await expect(page.locator("#sentence")).to_have_text("The server does not answer")
            await expect(page.locator("#more")).to_contain_text("The last answer came at")
            await expect(page.locator("body[data-stale]")).to_have_count(1)
            assert await violations(page, "color-contrast") == []
            await see_figures(page)


async def test_when_it_asks(browser: Browser, root: str) -> None:
    """It asks each five seconds, less and less often while nothing answers, never while it is hidden or paused."""
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

    async with opened(browser, f"{root}{PAGE}", expected=GONE, before=prepare) as page:
        await see_figures(page)
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
        await expect(page.locator("#sentence")).to_have_text("The server does not answer")
        assert not await asks_within(9)
        assert await asks_within(2)
        assert not await asks_within(19)
        gone = False
        assert await asks_within(2)
        await expect(page.locator("#sentence")).to_have_text("All is well")
        assert await page.locator("body[data-stale]").count() == 0


async def test_on_a_phone(browser: Browser, root: str) -> None:
    """At 360 pixels nothing is wider than the screen, neither figures nor form, however long names are."""
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

    async with opened(browser, f"{root}{PAGE}", viewport=PHONE, is_mobile=True) as page:
        await see_figures(page)
        assert await width_of(page) == 360
        await health.put(page)
        await page.route("**/metrics/database", database)
        await page.route("**/metrics/performance", performance)
        await ask_again(page)
        await expect(page.locator("#slow")).to_contain_text(long)
        for each in await page.locator("summary").all():
            await each.click() if await each.is_visible() else None
        assert await width_of(page) == 360
    async with opened(
        browser, f"{root}{PAGE}", expected=REFUSED, viewport=PHONE, extra_http_headers=ELSEWHERE
    ) as page:
        await expect(page.locator("#login")).to_be_visible()
        assert await width_of(page) == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_it(browser: Browser, root: str, scheme: Any) -> None:
    """axe finds nothing against it, contrast included: not in figures, nor in failures, nor in the form."""
    failing = {
        "a": check("error", critical=True, detail="is down"),
        "b": check("error"),
        "c": check("unknown"),
    }
    async with opened(browser, f"{root}{PAGE}", expected=GONE, color_scheme=scheme) as page:
        await see_figures(page)
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 128) is (scheme == "dark")
        await Health(status="error", checks=failing).put(page)
        await ask_again(page)
        await expect(page.locator(".light .word", has_text="failing")).to_have_count(2)
        for each in await page.locator("main summary:visible").all():
            await each.click()
        # Between the schemes nothing differs but colours.
        rules = ("color-contrast",) if scheme == "dark" else ()
        assert await violations(page, *rules) == []
    async with opened(
        browser, f"{root}{PAGE}", expected=REFUSED, color_scheme=scheme, extra_http_headers=ELSEWHERE
    ) as page:
        await page.get_by_text("Use a token instead").click()
        assert await violations(page, *rules) == []


async def test_by_keyboard(browser: Browser, root: str) -> None:
    """Every control is reached by Tab, visibly; the table is sorted by Enter and keeps the focus in each round."""
    async with opened(browser, f"{root}{PAGE}") as page:
        await see_figures(page)
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


async def test_windows(browser: Browser, root: str) -> None:
    """The figures are of the window that is chosen."""

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["requests"] = 4000
        for number, minutes in enumerate(("1_minute", "5_minutes", "15_minutes"), 1):
            content[f"last_{minutes}"]["requests"] = 1000 * number
        await route.fulfill(json=content)

    async with opened(
        browser, f"{root}{PAGE}", before=lambda page: page.route("**/metrics/performance", performance)
    ) as page:
        await see_figures(page)
        total = page.locator("#totals dd").first
        await expect(total).to_contain_text("2,000")
        for name, shown in (("1 min", "1,000"), ("15 min", "3,000"), ("Since start", "4,000")):
            button = page.get_by_role("button", name=name, exact=True)
            await button.click()
            await expect(button).to_have_attribute("aria-pressed", "true")
            await expect(page.locator("#windows [aria-pressed=true]")).to_have_count(1)
            await expect(total).to_contain_text(shown)


async def test_what_misses_its_target(browser: Browser, root: str) -> None:
    """An endpoint that misses its target is marked in words, counted, and shown however long the list is."""
    figures = {
        "errors": 0,
        "error_rate": 0.0,
        "p50_ms": 1.0,
        "p99_ms": 90.0,
        "target_ms": 40.0,
        "last_error_at": None,
    }

    async def performance(route: Route) -> None:
        content = await (await route.fetch()).json()
        content["last_5_minutes"]["endpoints"] = [
            {"method": "GET", "route": f"/{name}", "count": count, "p95_ms": p95, **figures}
            for name, count, p95 in (
                *((f"r{n}", 100 + n, 2.0) for n in range(12)),
                ("late", 20, 40.1),
                ("few", 19, 90),
            )
        ]
        await route.fulfill(json=content)

    async with opened(
        browser, f"{root}{PAGE}", before=lambda page: page.route("**/metrics/performance", performance)
    ) as page:
        rows = page.locator("#endpoints tr")
        await expect(rows).to_have_count(11)
        await expect(rows.last).to_contain_text("GET /late")
        await expect(rows.last).to_contain_text("misses 40 ms")
        await expect(page.locator("#more")).to_contain_text("1 endpoint over target")
        await page.get_by_role("button", name="Show all 14").click()
        await expect(rows).to_have_count(14)
        await expect(rows.last).to_contain_text("over 40 ms, few requests")


async def test_nothing_becomes_markup(browser: Browser, root: str) -> None:
    """Whatever the server says is text: what looks like HTML is shown as it is."""
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

    async with opened(browser, f"{root}{PAGE}", expected=GONE, before=prepare) as page:
        await expect(page.locator("#slow")).to_contain_text(html)
        for place in ("#sentence", "#lights", "#endpoints", "#database-problem", "#about"):
            await expect(page.locator(place)).to_contain_text(html)
        assert await page.locator("img, #slow b, #sentence *").count() == 0


async def test_without_the_session_store(browser: Browser, root: str, settings: Settings) -> None:
    """While nobody can tell who asks, the reason is shown, and a token without a session still opens the figures."""

    async def performance(route: Route) -> None:
        if "authorization" in route.request.headers:
            await route.continue_()
            return
        problem = {"status": 503, "title": "Unavailable", "detail": "The session store does not answer"}
        await route.fulfill(status=503, content_type="application/problem+json", body=json.dumps(problem))

    async with opened(
        browser,
        f"{root}{PAGE}",
        expected=GONE,
        before=lambda page: page.route("**/metrics/performance", performance),
        extra_http_headers=ELSEWHERE,
    ) as page:
        await expect(page.get_by_role("alert")).to_contain_text("The session store does not answer")
        await page.get_by_text("Use a token instead").click()
        await page.get_by_label("Bearer token").fill(token_for(settings, "carol", ("monitoring:read",)))
        await page.keyboard.press("Enter")
        await see_figures(page)


async def test_without_javascript(browser: Browser, root: str) -> None:
    """Without JavaScript it says so, and where the figures are; it holds none itself."""
    async with opened(browser, f"{root}{PAGE}", java_script_enabled=False) as page:
        assert "This page needs JavaScript" in str(await page.locator("noscript").text_content())
        assert await page.locator("main > :visible:not(noscript)").count() == 0
