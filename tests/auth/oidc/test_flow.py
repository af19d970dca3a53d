"""The authorization code flow: its parameters, the resulting account and the final redirect."""

import asyncio
import base64
import hashlib
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from projkit import ProjKit
from projkit.settings import OidcProvider
from projkit.testing.internals import Internals
from tests.auth.oidc.conftest import (
    AUTH,
    CLIENT_ID,
    ORIGIN,
    Browser,
    OpenKit,
    browser_cookie,
    callback_of,
    query_of,
    refused,
    set_cookies,
    settings_with,
)
from tests.auth.oidc.provider import AUTHORIZE, TOKEN, OpenIdProvider
from tests.services import open_sqlite

pytestmark = pytest.mark.anyio


async def test_the_whole_way(any_database_url: str, provider: OpenIdProvider) -> None:
    """A browser that goes to the provider and back is signed in, with the login cookies and without the transient."""
    settings = settings_with(
        any_database_url, provider, legacy_secret="another secret of the tests, long enough"
    )
    kit = ProjKit(settings)
    async with kit.lifespan(), Browser(kit) as browser:
        answer = await browser.log_in(next="/projects?view=mine#top")
        assert (answer.status_code, answer.headers["location"]) == (303, "/projects?view=mine#top")
        assert answer.headers["cache-control"] == "private, no-store"
        cookies = set_cookies(answer)
        assert cookies.keys() == {"auth_token", "refresh_token", "csrf_token", "access_token", "oidc_login"}
        assert "Max-Age=0" in cookies["oidc_login"]
        assert "Max-Age=0" in cookies["access_token"]
        assert "HttpOnly; SameSite=Lax" in cookies["auth_token"]
        session = (await browser.get(f"{AUTH}/session")).json()
        assert session["token_format"] == "enhanced"
        assert session["scopes"] == ["projects:read", "projects:write"]
        created = await browser.post(
            "/api/v1/projects",
            json={"name": "Mine"},
            headers={"X-CSRF-Token": browser.cookies["csrf_token"], "Sec-Fetch-Site": "same-origin"},
        )
        assert created.status_code == 201
        assert created.json()["owner_id"] == session["subject"]


async def test_what_the_provider_is_asked(browser: Browser, provider: OpenIdProvider) -> None:
    """The request has code flow, S256, state, nonce and the exact redirect URI; only the provider gets the
    verifier.
    """
    started = await browser.start()
    query = query_of(started.headers["location"])
    assert started.headers["location"].startswith(f"{provider.issuer}{AUTHORIZE}?")
    assert (query["response_type"], query["client_id"]) == ("code", CLIENT_ID)
    assert query["redirect_uri"] == callback_of("corp")
    assert query["scope"].split()[0] == "openid"
    assert query["code_challenge_method"] == "S256"
    assert min(len(query["state"]), len(query["nonce"])) >= 43
    back = (await browser.get(started.headers["location"])).headers["location"]
    assert (await browser.get(back)).status_code == 303
    (form,) = provider.redeemed
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == query["code_challenge"]
    login_state = base64.urlsafe_b64decode(browser_cookie(started) + "==")
    assert form["code_verifier"].encode() not in login_state
    assert base64.urlsafe_b64decode(form["code_verifier"] + "=") not in login_state


async def test_the_transient_cookie(browser: Browser) -> None:
    """The login-state cookie is HttpOnly, SameSite=Lax, limited to these routes, and short-lived."""
    cookie = set_cookies(await browser.start())["oidc_login"]
    assert f"Path={AUTH}; Max-Age=600; HttpOnly; SameSite=Lax" in cookie


async def test_the_cookie_is_secure_where_it_must(open_kit: OpenKit) -> None:
    """With the __Host- prefix the transient cookie has it too, is Secure and has the path /."""
    async with open_kit(cookie_host_prefix=True) as kit, Browser(kit) as browser:
        cookie = set_cookies(await browser.start())["__Host-oidc_login"]
        assert "Path=/;" in cookie
        assert cookie.endswith("; Secure")


async def test_a_mount(open_kit: OpenKit) -> None:
    """Below a mount, the redirect URI is derived from PUBLIC_URL, whatever the Host header is."""
    async with (
        open_kit(public_url=f"{ORIGIN}/kit/") as kit,
        Browser(Starlette(routes=[Mount("/kit", kit)])) as browser,
    ):
        started = await browser.get(f"/kit{AUTH}/oidc/corp/login", headers={"Host": "evil.example"})
        assert query_of(started.headers["location"])["redirect_uri"] == callback_of("corp", "/kit")
        assert (await browser.log_in(mount="/kit")).status_code == 303
        assert (await browser.get(f"/kit{AUTH}/session")).status_code == 200


async def test_a_public_client(open_kit: OpenKit, provider: OpenIdProvider) -> None:
    """A client without a secret uses PKCE alone, and sends its client_id in the form."""
    config = OidcProvider(issuer=provider.issuer, client_id="public-app")
    async with open_kit(oidc_providers={"corp": config}) as kit, Browser(kit) as browser:
        assert (await browser.log_in()).status_code == 303
        assert provider.redeemed[0]["client_id"] == "public-app"


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_client_authentication(browser: Browser, provider: OpenIdProvider, method: str) -> None:
    """The secret is sent in the header, encoded (RFC 6749 §2.3.1), or in the form if the provider supports
    only that.
    """
    provider.metadata_changes = {"token_endpoint_auth_methods_supported": [method]}
    assert (await browser.log_in()).status_code == 303
    assert ("client_secret" in provider.redeemed[0]) == (method == "client_secret_post")


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"])
async def test_algorithms(browser: Browser, provider: OpenIdProvider, algorithm: str) -> None:
    """Every supported asymmetric algorithm is accepted, with a key for it and the matching at_hash."""
    provider.rotate(algorithm)
    assert (await browser.log_in()).status_code == 303


async def test_the_same_person_again(kit: ProjKit, provider: OpenIdProvider) -> None:
    """Issuer and subject identify the account: the same pair is the same user, another pair another user."""
    subjects = []
    for sub in ("u-1", "u-1", "u-2"):
        provider.user = {"sub": sub}
        async with Browser(kit) as browser:
            await browser.log_in()
            subjects.append(await browser.subject())
    assert subjects[0] == subjects[1] != subjects[2]
    assert None not in subjects


async def test_first_logins_at_once(kit: ProjKit) -> None:
    """Concurrent first logins of one user create one account."""
    browsers = [Browser(kit) for _ in range(6)]
    answers = await asyncio.gather(*(each.log_in() for each in browsers))
    assert {answer.status_code for answer in answers} == {303}
    assert len({await each.subject() for each in browsers}) == 1
    for each in browsers:
        await each.aclose()


async def test_an_e_mail_address_links_nothing(open_kit: OpenKit, provider: OpenIdProvider) -> None:
    """A verified e-mail address that is another user's name or another identity's address opens neither
    account.
    """
    async with open_kit(registration="open") as kit, Browser(kit) as browser, Browser(kit) as other:
        local = await browser.post(
            f"{AUTH}/register", json={"username": "alice@example.com", "password": "a long enough passphrase"}
        )
        assert local.status_code == 201
        subjects = {local.json()["subject"], "alice@example.com"}
        for each, sub in ((browser, "u-1"), (other, "u-2")):
            provider.user = {"sub": sub, "email": "alice@example.com", "email_verified": True}
            assert (await each.log_in()).status_code == 303
            subject = await each.subject()
            assert subject not in subjects
            subjects.add(str(subject))


async def test_granted_scopes(open_kit: OpenKit, provider: OpenIdProvider) -> None:
    """New users get the scopes of the provider's setting, and keep them."""
    config = OidcProvider(issuer=provider.issuer, client_id="public-app", granted=("projects:read",))
    async with open_kit(oidc_providers={"corp": config}) as kit, Browser(kit) as browser:
        await browser.log_in()
        assert (await browser.get(f"{AUTH}/session")).json()["scopes"] == ["projects:read"]


async def test_a_new_session_each_time(kit: ProjKit, browser: Browser) -> None:
    """A login replaces any existing session of the browser (fixation)."""
    await browser.log_in()
    first = (await browser.get(f"{AUTH}/session")).json()["session_id"]
    csrf = browser.cookies["csrf_token"]
    await browser.log_in()
    second = (await browser.get(f"{AUTH}/session")).json()["session_id"]
    assert first != second
    assert csrf != browser.cookies["csrf_token"]


async def test_a_disabled_user(browser: Browser, sqlite_url: str) -> None:
    """A user disabled here is denied although the provider accepts them, and gets no new account."""
    await browser.log_in()
    with open_sqlite(sqlite_url) as database:
        database.execute("UPDATE projkit_users SET disabled_at = created_at")
    browser.cookies.clear()
    assert refused(await browser.log_in())
    with open_sqlite(sqlite_url) as database:
        assert database.execute("SELECT count(*) FROM projkit_users").fetchone() == (1,)


async def test_disabled_while_logging_in(
    kit: ProjKit, browser: Browser, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user disabled between the account look-up and the new session does not keep that session."""
    await browser.log_in()
    browser.cookies.clear()
    sessions = Internals(kit).running.auth.sessions
    open_session = sessions.open

    async def slow_open(*arguments: Any, **options: Any) -> Any:
        with open_sqlite(sqlite_url) as database:
            database.execute("UPDATE projkit_users SET disabled_at = created_at")
            database.execute("DELETE FROM projkit_sessions")
        return await open_session(*arguments, **options)

    monkeypatch.setattr(sessions, "open", slow_open)
    assert refused(await browser.log_in())
    with open_sqlite(sqlite_url) as database:
        assert database.execute("SELECT count(*) FROM projkit_sessions").fetchone() == (0,)


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example", "/\\evil.example", "https://evil.example/", "http:evil.example", "evil", "",
        "/\t/evil.example", "/\n/evil.example", "\x00/", "/a\r\nSet-Cookie: x=y", "/x//evil.example",
        "/..//evil.example",
        "javascript:alert(1)", " /x", "///evil.example", "/\x7f", "/\u0085", "\\\\evil.example", "@evil.example",
        "/" + "a" * 1024,
    ],
)  # fmt: skip
async def test_open_redirects(browser: Browser, provider: OpenIdProvider, path: str) -> None:
    """A ``next`` that is not a plain path on this site is 422, before the login starts."""
    answer = await browser.start(next=path)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "next"
    assert "set-cookie" not in answer.headers
    assert not provider.hits


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/", "/"), ("/a/b?c=//d&e=https://f#g", "/a/b?c=//d&e=https://f#g"), ("/ü", "/%C3%BC"),
        ("/a b", "/a%20b"), ("/a%20b", "/a%20b"), ("/%2f%5cevil.example", "/%2f%5cevil.example"), ('/"<', "/%22%3C"),
    ],
)  # fmt: skip
async def test_where_it_goes_afterwards(browser: Browser, path: str, location: str) -> None:
    """A path on this site is preserved, in ASCII."""
    assert (await browser.log_in(next=path)).headers["location"] == location


async def test_unknown_parameters_of_login(browser: Browser) -> None:
    """An unknown parameter is 422, as for all endpoints."""
    assert (await browser.start(redirect="/x")).status_code == 422
    assert (await browser.get(f"{AUTH}/oidc/corp/login?next=/a&next=/b")).status_code == 422


@pytest.mark.parametrize("name", ["nobody", "CORP", "x" * 33, "co rp", "corp%2F.."])
@pytest.mark.parametrize("step", ["login", "callback"])
async def test_unknown_providers(browser: Browser, name: str, step: str) -> None:
    """The path of an unconfigured provider is 404."""
    assert (await browser.get(f"{AUTH}/oidc/{name}/{step}")).status_code == 404


async def test_without_providers(open_kit: OpenKit) -> None:
    """A kit without providers has no login path for any name."""
    async with open_kit(oidc_providers={}) as kit, Browser(kit) as browser:
        assert (await browser.start()).status_code == 404


async def test_tenants(open_kit: OpenKit, provider: OpenIdProvider) -> None:
    """With TENANT_CLAIM the ID token names the tenant: a subject in two is two users; without it, the login fails."""
    async with open_kit(tenant_claim="org") as kit:
        subjects = set()
        for tenant in ("red", "blue"):
            provider.user = {"sub": "u-1", "org": tenant}
            async with Browser(kit) as browser:
                assert (await browser.log_in()).status_code == 303
                subjects.add(await browser.subject())
        assert len(subjects) == 2
        for user in ({"sub": "u-1"}, {"sub": "u-1", "org": ""}, {"sub": "u-1", "org": 5}):
            provider.user = user
            async with Browser(kit) as browser:
                assert refused(await browser.log_in())


async def test_login_attempts_are_limited(open_kit: OpenKit, provider: OpenIdProvider) -> None:
    """Logins at a provider count towards the address limit; beyond it, the code is not exchanged."""
    async with open_kit(login_limit_address="2/minute") as kit, Browser(kit) as browser:
        assert [(await browser.log_in()).status_code for _ in range(3)] == [303, 303, 429]
        assert provider.hits[TOKEN] == 2


async def test_the_document_has_the_endpoints(kit: ProjKit) -> None:
    """Both endpoints are in the OpenAPI document, public, with their redirects and errors."""
    paths = kit.openapi()["paths"]
    for step, success, others in (
        ("login", "302", {"404", "422", "503"}), ("callback", "303", {"401", "404", "429", "503"}),
    ):  # fmt: skip
        operation = paths[f"{AUTH}/oidc/{{provider}}/{step}"]["get"]
        assert operation["security"] == []
        assert {"Location", "Set-Cookie"} <= operation["responses"][success]["headers"].keys()
        assert others <= operation["responses"].keys()
