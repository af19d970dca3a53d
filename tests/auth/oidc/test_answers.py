"""Authorization responses for another browser, login or provider are rejected."""

import asyncio

import pytest

from projkit import ProjKit
from projkit.auth.oidc import login_state
from tests.auth.oidc.conftest import (
    AUTH,
    Browser,
    browser_cookie,
    query_of,
    refused,
    set_cookies,
    with_query,
)
from tests.auth.oidc.provider import TOKEN, OpenIdProvider

pytestmark = pytest.mark.anyio


async def test_a_state_is_good_once(browser: Browser, provider: OpenIdProvider) -> None:
    """A repeated authorization response is rejected, even if the cookie is restored."""
    started = await browser.start()
    cookie = {"Cookie": f"oidc_login={browser_cookie(started)}"}
    back = (await browser.get(started.headers["location"])).headers["location"]
    browser.cookies.clear()
    assert (await browser.get(back, headers=cookie)).status_code == 303
    requests = provider.hits[TOKEN]
    browser.cookies.clear()
    assert refused(await browser.get(back, headers=cookie))
    assert provider.hits[TOKEN] == requests


async def test_a_state_is_consumed_once_under_race(browser: Browser, provider: OpenIdProvider) -> None:
    """Of many concurrent requests with the same state, one succeeds, and the code is sent once."""
    started = await browser.start()
    cookie = {"Cookie": f"oidc_login={browser_cookie(started)}"}
    back = (await browser.get(started.headers["location"])).headers["location"]
    browser.cookies.clear()
    answers = await asyncio.gather(*(browser.get(back, headers=cookie) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [303, *[401] * 7]
    assert provider.hits[TOKEN] == 1


async def test_another_browser(kit: ProjKit, provider: OpenIdProvider) -> None:
    """An attacker's response does not log a victim in, alone or during the victim's login (login CSRF)."""
    async with Browser(kit) as attacker, Browser(kit) as victim:
        back = await attacker.to_provider()
        assert refused(await victim.get(back))
        own = await victim.to_provider()
        assert refused(await victim.get(back))
        assert provider.hits[TOKEN] == 0
        # What the victim has begun is not spoilt by that.
        assert (await victim.get(own)).status_code == 303


async def test_a_stolen_code(kit: ProjKit, provider: OpenIdProvider) -> None:
    """A code of another browser's login is useless, since the verifier does not match (RFC 7636)."""
    async with Browser(kit) as victim, Browser(kit) as attacker:
        stolen = query_of(await victim.to_provider())["code"]
        back = await attacker.to_provider()
        assert refused(await attacker.get(with_query(back, code=stolen)))
        assert provider.hits[TOKEN] == 1


async def test_another_provider(browser: Browser, provider: OpenIdProvider) -> None:
    """A response at another provider's redirect URI is rejected (mix-up) before the code is sent anywhere."""
    back = await browser.to_provider("corp")
    assert refused(await browser.get(back.replace("/corp/", "/other/")))
    assert provider.hits[TOKEN] == 0


@pytest.mark.parametrize(
    "changes",
    [{"state": None}, {"state": ""}, {"state": "x" * 43}, {"state": "\u00fc"}, {"code": None}, {"code": ""}],
)
async def test_wrong_answers(
    browser: Browser, provider: OpenIdProvider, changes: dict[str, str | None]
) -> None:
    """A response without state or code is rejected."""
    back = await browser.to_provider()
    assert refused(await browser.get(with_query(back, **changes)))
    assert provider.hits[TOKEN] == 0


@pytest.mark.parametrize("more", ["&state=x", "&code=x", "&iss=x", "&error=x", "&x=%ff", "&y" * 60])
async def test_ambiguous_answers(browser: Browser, provider: OpenIdProvider, more: str) -> None:
    """A repeated or undecodable parameter is rejected."""
    assert refused(await browser.get(await browser.to_provider() + more))
    assert provider.hits[TOKEN] == 0


async def test_unknown_parameters_of_the_answer(browser: Browser) -> None:
    """Unknown parameters of the response are ignored (RFC 6749 §4.1.2)."""
    back = await browser.to_provider()
    assert (await browser.get(f"{back}&session_state=x&scope=a&scope=b")).status_code == 303


def _flip(text: str, index: int) -> str:
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


@pytest.mark.parametrize("index", [0, 2, 44, 56, 60, 100, -1])
async def test_tampered_login_states(browser: Browser, index: int) -> None:
    """A login-state cookie with one changed character is rejected."""
    started = await browser.start(next="/somewhere")
    login_state = browser_cookie(started)
    back = (await browser.get(started.headers["location"])).headers["location"]
    browser.cookies.clear()
    changed = _flip(login_state, index % len(login_state))
    assert refused(await browser.get(back, headers={"Cookie": f"oidc_login={changed}"}))
    assert (await browser.get(back, headers={"Cookie": f"oidc_login={login_state}"})).status_code == 303


@pytest.mark.parametrize(
    "value", ["", "AQ", "A" * 5000, "\xff", "....", "AQ" + "A" * 200, "Ag" + "A" * 120, "=" * 100]
)
async def test_malformed_login_states(browser: Browser, value: str) -> None:
    """No content of the cookie causes anything worse than 401."""
    back = await browser.to_provider()
    browser.cookies.clear()
    header = {b"cookie": b"oidc_login=" + value.encode("latin-1")}
    assert refused(await browser.get(back, headers=header))


async def test_two_login_states(browser: Browser) -> None:
    """If a sibling site has set a second cookie of the same name, both are ignored."""
    started = await browser.start()
    login_state = browser_cookie(started)
    back = (await browser.get(started.headers["location"])).headers["location"]
    browser.cookies.clear()
    assert refused(await browser.get(back, headers={"Cookie": f"oidc_login={login_state}; oidc_login=x"}))


async def test_cookies_of_other_purposes(browser: Browser) -> None:
    """No other value of the kit is accepted as a login state, nor a login state in its place."""
    await browser.log_in()
    others = [browser.cookies[name] for name in ("auth_token", "refresh_token", "csrf_token")]
    started = await browser.start()
    login_state = browser_cookie(started)
    state = query_of(started.headers["location"])["state"]
    back = (await browser.get(started.headers["location"])).headers["location"]
    browser.cookies.clear()
    for each in others:
        assert refused(await browser.get(back, headers={"Cookie": f"oidc_login={each}"}))
    for each in (login_state, state):
        for name in ("auth_token", "access_token"):
            answer = await browser.get(f"{AUTH}/session", headers={"Cookie": f"{name}={each}"})
            assert answer.status_code == 401
        assert (
            await browser.get(f"{AUTH}/session", headers={"Authorization": f"Bearer {each}"})
        ).status_code == 401
        assert (await browser.post(f"{AUTH}/refresh", json={"refresh_token": each})).status_code == 401


async def test_a_login_that_takes_too_long(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login state expires after ten minutes, even if the browser still sends it."""
    monkeypatch.setattr(login_state, "LIFETIME_SECONDS", -1)
    assert refused(await browser.log_in())


@pytest.mark.parametrize("issuer", [None, "", "https://evil.example", "{issuer}/", "{ISSUER}"])
async def test_the_issuer_of_the_answer(
    browser: Browser, provider: OpenIdProvider, issuer: str | None
) -> None:
    """If the provider announces iss (RFC 9207), a response without it or with another value is rejected."""
    back = await browser.to_provider()
    if issuer is not None:
        issuer = issuer.format(issuer=provider.issuer, ISSUER=provider.issuer.upper())
    assert refused(await browser.get(with_query(back, iss=issuer)))
    assert provider.hits[TOKEN] == 0


@pytest.mark.parametrize(("issuer", "status"), [(None, 303), ("https://evil.example", 401)])
async def test_a_provider_without_rfc_9207(
    browser: Browser, provider: OpenIdProvider, issuer: str | None, status: int
) -> None:
    """If the provider does not announce iss, it may be absent, but a wrong value is rejected."""
    provider.metadata_changes = {"authorization_response_iss_parameter_supported": None}
    provider.answer_issuer = issuer
    assert (await browser.log_in()).status_code == status


async def test_the_provider_says_no(
    browser: Browser, provider: OpenIdProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """An error response ends the login, consumes the login state and is not shown to the user."""
    provider.user = {}
    back = await browser.to_provider()
    caplog.set_level("INFO", "projkit")
    answer = await browser.get(f"{back}&error_description=%3Cscript%3E")
    assert refused(answer)
    assert "script" not in answer.text
    assert "access_denied" not in answer.text
    assert "Max-Age=0" in set_cookies(answer)["oidc_login"]
    assert "access_denied" in caplog.text


async def test_a_forged_error(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """An invalid error code is not logged."""
    back = await browser.to_provider()
    caplog.set_level("INFO", "projkit")
    assert refused(await browser.get(with_query(back, code=None, error="x\r\n\x1b[31mforged")))
    assert "forged" not in caplog.text
