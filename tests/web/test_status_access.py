"""The status page in a real browser: who can see metrics, and what other users see."""

import json

import pytest
from playwright.async_api import Browser, Route, expect

from projkit import Settings
from tests.auth.users import PASSWORD
from tests.conftest import token_for
from tests.web.browsing import ELSEWHERE, GONE, REFUSED, STATUS_PAGE, opened, refresh, see_metrics

pytestmark = pytest.mark.anyio


async def test_logging_in_and_out(browser: Browser, root: str) -> None:
    """Anonymous users see a form, a wrong password is reported, and the session lasts until logout."""
    async with opened(
        browser, f"{root}{STATUS_PAGE}", expected=REFUSED, extra_http_headers=ELSEWHERE
    ) as page:
        form, figures = page.locator("#login"), page.locator("#metrics")
        await expect(form).to_be_visible()
        await expect(figures).to_be_hidden()
        await page.get_by_label("Username").fill("alice")
        await page.get_by_label("Password").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("Wrong username or password.")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in").click()
        await see_metrics(page)
        await expect(form).to_be_hidden()
        await expect(page.locator("#user")).to_have_text("alice")
        await page.reload()
        await see_metrics(page)
        await page.context.clear_cookies(name="auth_token")  # as when it has expired
        await refresh(page)
        names = {cookie.get("name") for cookie in await page.context.cookies(f"{root}{STATUS_PAGE}")}
        async with page.expect_response("**/auth/logout") as ended:
            await page.get_by_role("button", name="Log out").click()
        assert (await ended.value).status == 204
        await expect(form).to_be_visible()
        await expect(figures).to_be_hidden()
        assert "csrf_token" in names
        assert {cookie.get("name") for cookie in await page.context.cookies()} <= {"known_device"}


async def test_without_the_scope(browser: Browser, root: str) -> None:
    """The page names the missing scope to a user without it."""
    async with opened(
        browser, f"{root}{STATUS_PAGE}", expected=REFUSED, extra_http_headers=ELSEWHERE
    ) as page:
        await page.get_by_label("Username").fill("bob")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_contain_text("do not include monitoring:read")
        await expect(page.locator("#metrics")).to_be_hidden()
        await expect(page.get_by_role("button", name="Log out")).to_be_visible()


async def test_too_many_attempts(browser: Browser, root: str) -> None:
    """After too many attempts the page says when to try again."""
    async with opened(
        browser, f"{root}{STATUS_PAGE}", expected=REFUSED, extra_http_headers=ELSEWHERE
    ) as page:
        alert = page.get_by_role("alert")
        for said in ("Wrong username", "Wrong username", "Try again in "):
            await page.get_by_label("Username").fill("mallory")
            await page.get_by_label("Password").fill("guess")
            await page.get_by_role("button", name="Log in").click()
            await expect(page.locator("#login-button")).to_be_enabled()
            await expect(alert).to_contain_text(said)


async def test_token(browser: Browser, root: str, settings: Settings) -> None:
    """A pasted token shows the metrics, is not stored, and can be forgotten; an invalid one is reported."""
    token = token_for(settings, "carol", ("monitoring:read",))
    async with opened(
        browser, f"{root}{STATUS_PAGE}", expected=REFUSED, extra_http_headers=ELSEWHERE
    ) as page:
        await page.get_by_text("Use a token instead").click()
        for wrong, said in (("zwölf", "This is not a token."), ("a.b.c", "invalid or has expired")):
            await page.get_by_label("Bearer token").fill(wrong)
            await page.get_by_role("button", name="Use token").click()
            await expect(page.get_by_role("alert")).to_contain_text(said)
        await page.get_by_label("Bearer token").fill(token)
        await page.keyboard.press("Enter")
        await see_metrics(page)
        await expect(page.locator("#user")).to_have_text("carol")
        kept = await page.evaluate(
            "[document.cookie, localStorage.length, sessionStorage.length, location.href]"
        )
        assert kept == ["", 0, 0, f"{root}{STATUS_PAGE}"]
        await page.get_by_role("button", name="Forget the token").click()
        await expect(page.locator("#login")).to_be_visible()


async def test_without_the_session_store(browser: Browser, root: str, settings: Settings) -> None:
    """If the session store is unavailable the reason is shown, and a token without a session still works."""

    async def performance(route: Route) -> None:
        if "authorization" in route.request.headers:
            await route.continue_()
            return
        problem = {"status": 503, "title": "Unavailable", "detail": "The session store does not answer"}
        await route.fulfill(status=503, content_type="application/problem+json", body=json.dumps(problem))

    async with opened(
        browser,
        f"{root}{STATUS_PAGE}",
        expected=GONE,
        before=lambda page: page.route("**/metrics/performance", performance),
        extra_http_headers=ELSEWHERE,
    ) as page:
        await expect(page.get_by_role("alert")).to_contain_text("The session store does not answer")
        await page.get_by_text("Use a token instead").click()
        await page.get_by_label("Bearer token").fill(token_for(settings, "carol", ("monitoring:read",)))
        await page.keyboard.press("Enter")
        await see_metrics(page)
