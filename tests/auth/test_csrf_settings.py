"""CSRF rules at login, refresh and logout, and the settings that change them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from projkit import ProjKit
from projkit.auth.csrf import LABEL, CsrfGuard
from projkit.auth.keys import load_keys
from projkit.auth.wiring import cookie_names
from projkit.errors import ConfigurationError
from projkit.http.request import Request
from projkit.observers import NULL_OBSERVER
from tests.auth import forge
from tests.auth.asgi_client import Answer, Header, ask, bearer, cookie
from tests.auth.conftest import OpenKit
from tests.auth.test_csrf import refuses
from tests.auth.users import AUTH, PASSWORD, PROJECTS, SAME_ORIGIN, Browser, add_user, auth_services, log_in
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio

ALLOWED: Final = "https://app.example.com"
EVIL: Final[Header] = ("origin", "https://evil.example")


@pytest.fixture
def any_database_url(sqlite_url: str) -> str:
    """The database makes no difference to CSRF checks."""
    return sqlite_url


@pytest.mark.parametrize(
    ("headers", "rule"),
    [
        ([], None), ([SAME_ORIGIN], None), ([("sec-fetch-site", "none")], None), ([("origin", ALLOWED)], None),
        ([("sec-fetch-site", "cross-site"), ("origin", ALLOWED)], None), ([EVIL], "origin"),
        ([("origin", "null")], "origin"),
        ([("sec-fetch-site", "cross-site")], "origin"), ([("sec-fetch-site", "same-site")], "origin"),
        ([("origin", "")], "origin"), ([("sec-fetch-site", "")], "origin"), ([("origin", ALLOWED), EVIL], "origin"),
        ([("sec-fetch-site", "none"), ("sec-fetch-site", "none")], "origin"),
        ([("origin", ALLOWED), ("content-type", "text/plain")], "content_type"),
    ],
)  # fmt: skip
async def test_before_there_is_a_session(open_kit: OpenKit, headers: list[Header], rule: str | None) -> None:
    """Login, registration and a refresh by body accept non-browser clients, and pages of allowed origins
    only.
    """
    async with open_kit(allowed_origins=[ALLOWED], registration="open") as kit:
        await add_user(kit, "alice")
        refresh = (await log_in(kit)).json()["refresh_token"]
        cases = {
            "login": ({"username": "alice", "password": PASSWORD}, 200),
            "register": ({"username": "bob", "password": PASSWORD}, 201),
            "refresh": ({"refresh_token": refresh}, 200),
        }
        for name, (content, status) in cases.items():
            answer = await ask(kit, "POST", f"{AUTH}/{name}", headers, json=content)
            if rule is None:
                assert answer.status == status, answer
            else:
                refuses(answer, rule)
                assert not answer.all("set-cookie")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_a_form_cannot_log_in(open_kit: OpenKit, content_type: str) -> None:
    """A content type that a plain form can send is rejected at login, from browsers and other clients."""
    async with open_kit() as kit:
        await add_user(kit, "alice")
        body = b'{"username":"alice","password":"%s"}' % PASSWORD.encode()
        answer = await ask(kit, "POST", f"{AUTH}/login", [SAME_ORIGIN], body=body, content_type=content_type)
        refuses(answer, "content_type")
        answer = await ask(kit, "POST", f"{AUTH}/login", body=body, content_type=content_type)
        assert answer.code == "unsupported_media_type"


async def test_bodies_that_come_unannounced(open_kit: OpenKit) -> None:
    """Over HTTP/2, where Content-Length is optional, a body is read if there is one, and the same rules
    apply.
    """
    async with open_kit() as kit:
        await add_user(kit, "alice")
        by_body = (await log_in(kit)).json()["refresh_token"]
        browser = Browser(kit)
        await browser.log_in()
        value = browser.jar["csrf_token"]
        mine = cookie(refresh_token=browser.jar["refresh_token"], csrf_token=value)
        good: list[Header] = [mine, ("x-csrf-token", value), SAME_ORIGIN]

        async def refresh(headers: Iterable[Header], **sent: Any) -> Answer:
            return await ask(kit, "POST", f"{AUTH}/refresh", headers, http_version="2", **sent)

        assert (await refresh([], json={"refresh_token": by_body})).status == 200
        assert (await refresh([])).code == "missing_credentials"
        assert (await refresh([], body=b"{}", content_type="")).code == "unsupported_media_type"
        refuses(await refresh(good, body=b"{}", content_type="text/plain"), "content_type")
        assert (await refresh([*good, ("content-type", "application/json")])).status == 200
        refreshed = await refresh(good)
        assert refreshed.status == 200
        logged_out = await ask(kit, "POST", f"{AUTH}/logout", good, http_version="2")
        assert logged_out.status == 204


async def test_refresh_by_cookie(open_kit: OpenKit) -> None:
    """All three rules apply to the refresh cookie, and a rejected attempt does not consume the token."""
    async with open_kit(allowed_origins=[ALLOWED]) as kit:
        await add_user(kit, "alice")
        browser, other = Browser(kit), Browser(kit)
        await browser.log_in()
        await other.log_in()
        value = browser.jar["csrf_token"]
        mine = cookie(refresh_token=browser.jar["refresh_token"], csrf_token=value)
        good: list[Header] = [mine, ("x-csrf-token", value), SAME_ORIGIN]
        refuses(await ask(kit, "POST", f"{AUTH}/refresh", [mine, ("x-csrf-token", value)]), "origin")
        refuses(await ask(kit, "POST", f"{AUTH}/refresh", [mine, ("x-csrf-token", value), EVIL]), "origin")
        refuses(await ask(kit, "POST", f"{AUTH}/refresh", [mine, SAME_ORIGIN]), "token")
        foreign = other.jar["csrf_token"]
        mixed = cookie(refresh_token=browser.jar["refresh_token"], csrf_token=foreign)
        refuses(
            await ask(kit, "POST", f"{AUTH}/refresh", [mixed, ("x-csrf-token", foreign), SAME_ORIGIN]),
            "token",
        )
        answer = await ask(kit, "POST", f"{AUTH}/refresh", good, body=b"{}", content_type="text/plain")
        refuses(answer, "content_type")
        assert (await ask(kit, "POST", f"{AUTH}/refresh", good)).status == 200


async def test_logout(open_kit: OpenKit) -> None:
    """Another site cannot log a user out: cookies require all three rules, Bearer tokens none."""
    async with open_kit() as kit:
        await add_user(kit, "alice")
        browser = Browser(kit)
        body = await browser.log_in(transport="body")
        value = browser.jar["csrf_token"]
        for name in ("auth_token", "refresh_token"):
            sent = cookie(**{name: browser.jar[name], "csrf_token": value})
            for path in ("logout", "logout-all"):
                if (name, path) != ("refresh_token", "logout-all"):
                    refuses(await ask(kit, "POST", f"{AUTH}/{path}", [sent]), "origin")
                    refuses(
                        await ask(kit, "POST", f"{AUTH}/{path}", [sent, EVIL, ("x-csrf-token", value)]),
                        "origin",
                    )
                    refuses(await ask(kit, "POST", f"{AUTH}/{path}", [sent, SAME_ORIGIN]), "token")
        assert (await browser.whoami()).status == 200
        assert (await ask(kit, "POST", f"{AUTH}/logout", [bearer(body["access_token"]), EVIL])).status == 204
        await browser.log_in()
        assert (await browser.send("POST", f"{AUTH}/logout", without=["auth_token"])).status == 204
        assert browser.jar.keys() == {"known_device"}


async def test_rotated_keys(open_kit: OpenKit, tmp_path: Path) -> None:
    """A CSRF token of an older key is valid as long as that key; one of a foreign key never is."""
    path = forge.write_keys(tmp_path / "keys.json", forge.private("HS256"), forge.private("EdDSA"))
    async with open_kit(secret=None, keys_file=path) as kit:
        for kid, good in (("HS256", True), ("HS256-stranger", False)):
            value = made_by(forge.write_keys(tmp_path / "other.json", forge.private(kid)))
            headers: list[Header] = [
                cookie(auth_token=forge.token(), csrf_token=value),
                ("x-csrf-token", value),
            ]
            answer = await ask(kit, "POST", PROJECTS, [*headers, SAME_ORIGIN], json={"name": "A"})
            if good:
                assert answer.status == 201
            else:
                refuses(answer, "token")


def made_by(keys_file: Path) -> str:
    """Alice's CSRF value by the keys of another file."""
    settings = settings_for("sqlite:///unused.db", secret=None, keys_file=keys_file)
    keys, names = load_keys(settings), cookie_names(settings)
    guard = CsrfGuard(settings, lambda: keys.secrets(LABEL), names, observer=NULL_OBSERVER)
    return guard.issue("subject:0::alice")


@pytest.mark.parametrize(
    ("settings", "header", "name"),
    [
        ({"csrf_header_name": "X-XSRF-TOKEN", "csrf_cookie_name": "XSRF-TOKEN"}, "x-xsrf-token", "XSRF-TOKEN"),
        ({"csrf_header_name": "x-csrftoken", "csrf_cookie_name": "csrftoken"}, "X-CSRFToken", "csrftoken"),
        ({"cookie_host_prefix": True}, "x-csrf-token", "__Host-csrf_token"),
    ],
)  # fmt: skip
async def test_names_of_ones_own(open_kit: OpenKit, settings: dict[str, Any], header: str, name: str) -> None:
    """Header and cookie have the configured names, and the default names are ignored."""
    async with open_kit(legacy_secret=forge.LEGACY_SECRET, **settings) as kit:
        answer = await ask(kit, "GET", f"{AUTH}/csrf", [cookie(access_token=forge.legacy())])
        value = answer.json()["csrf_token"]
        assert answer.cookies[name].value == value
        assert "httponly" not in answer.cookies[name].attributes
        mine = f"access_token={forge.legacy()}"

        async def post(sent_as: str, kept_as: str) -> Answer:
            headers: list[Header] = [("cookie", f"{mine}; {kept_as}={value}"), (sent_as, value), SAME_ORIGIN]
            return await ask(kit, "POST", PROJECTS, headers, json={"name": "A"})

        assert (await post(header, name)).status == 201
        for sent_as, kept_as in ((header, "csrf_token_"), ("x-csrf", name), (header, name.swapcase())):
            refuses(await post(sent_as, kept_as), "token")


async def test_origin_mode(open_kit: OpenKit) -> None:
    """CSRF_MODE=origin does not require the token, enforces the other rules, and counts requests that would
    fail.
    """
    async with open_kit(csrf_mode="origin", allowed_origins=[ALLOWED]) as kit:
        token = auth_services(kit).issuer.issue("alice", ("projects:read", "projects:write"))
        mine = cookie(auth_token=token)
        refuses(await ask(kit, "POST", PROJECTS, [mine], json={"name": "A"}), "origin")
        refuses(await ask(kit, "POST", PROJECTS, [mine, EVIL], json={"name": "A"}), "origin")
        answer = await ask(kit, "POST", PROJECTS, [mine, SAME_ORIGIN], body=b"{}", content_type="text/plain")
        refuses(answer, "content_type")
        assert counted(kit) == {("origin", "refused"): 3}
        for origin in (SAME_ORIGIN, ("origin", ALLOWED)):
            assert (await ask(kit, "POST", PROJECTS, [mine, origin], json={"name": "A"})).status == 201
        value = (await ask(kit, "GET", f"{AUTH}/csrf", [mine])).json()["csrf_token"]
        complete: list[Header] = [
            cookie(auth_token=token, csrf_token=value),
            ("x-csrf-token", value),
            SAME_ORIGIN,
        ]
        assert (await ask(kit, "POST", PROJECTS, complete, json={"name": "A"})).status == 201
        expected = {
            ("origin", "refused"): 3,
            ("origin", "accepted_without_token"): 2,
            ("origin", "accepted"): 1,
        }
        assert counted(kit) == expected


def counted(kit: ProjKit) -> dict[tuple[str, str], float]:
    """Return the numbers of counted checks by mode and outcome."""
    samples = [sample for metric in kit.registry.collect() for sample in metric.samples]
    return {
        (sample.labels["mode"], sample.labels["outcome"]): sample.value
        for sample in samples
        if sample.name == "projkit_auth_csrf_checks_total" and sample.value
    }


async def test_a_check_of_the_hosts_own(open_kit: OpenKit) -> None:
    """The host's own check replaces the token check only."""
    values: list[str | None] = []

    async def check(request: Request) -> bool:
        values.append(request.header(b"x-ours"))
        return values[-1] == "yes"

    async with open_kit(options={"csrf_check": check}) as kit:
        mine = cookie(auth_token=auth_services(kit).issuer.issue("alice", ("projects:write",)))
        refuses(await ask(kit, "POST", PROJECTS, [mine, ("x-ours", "yes")], json={"name": "A"}), "origin")
        answer = await ask(
            kit,
            "POST",
            PROJECTS,
            [mine, ("x-ours", "yes"), SAME_ORIGIN],
            body=b"{}",
            content_type="text/plain",
        )
        refuses(answer, "content_type")
        assert values == []
        refuses(
            await ask(kit, "POST", PROJECTS, [mine, ("x-ours", "no"), SAME_ORIGIN], json={"name": "A"}),
            "token",
        )
        refuses(await ask(kit, "POST", PROJECTS, [mine, SAME_ORIGIN], json={"name": "A"}), "token")
        answer = await ask(kit, "POST", PROJECTS, [mine, ("x-ours", "yes"), SAME_ORIGIN], json={"name": "A"})
        assert answer.status == 201
        assert values == ["no", None, "yes"]
        assert counted(kit) == {("own", "refused"): 4, ("own", "accepted"): 1}


async def test_a_wildcard_never_allows_cookies(open_kit: OpenKit) -> None:
    """A wildcard origin, allowed in development, permits no other origin with cookies; production fails to
    start.
    """
    async with open_kit(allowed_origins=["*"]) as kit:
        token = auth_services(kit).issuer.issue("alice", ("projects:write",))
        for origin in ("https://evil.example", "*", "null"):
            answer = await ask(
                kit, "POST", PROJECTS, [cookie(auth_token=token), ("origin", origin)], json={"name": "A"}
            )
            refuses(answer, "origin")
    with pytest.raises(ConfigurationError, match="PROJKIT_ALLOWED_ORIGINS"):
        settings_for("sqlite:///x.db", env="production", allowed_origins=["*"])
