"""Login: its response and cookies, and registration."""

from typing import Any, Final

import pytest
from argon2 import PasswordHasher

from projkit.auth import jws
from projkit.errors import NotFoundError
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, refuses
from tests.auth.conftest import OpenKit
from tests.auth.users import AUTH, PASSWORD, Browser, add_user, auth_services, log_in

pytestmark = pytest.mark.anyio

ALWAYS: Final = {"token_type", "expires_in", "refresh_expires_in", "csrf_token", "session_id"}


async def test_what_a_login_gives(open_kit: OpenKit) -> None:
    """A login returns tokens and lifetimes in the body and as cookies; the response must not be stored."""
    async with open_kit() as kit:
        await add_user(kit, "alice", subject="u-1", scopes=("projects:read", "monitoring:read"))
        answer = await log_in(kit)
        body = answer.json()
        assert set(body) == ALWAYS | {"access_token", "refresh_token"}
        assert (body["token_type"], body["expires_in"], body["refresh_expires_in"]) == ("Bearer", 900, 86_400)
        assert answer.header("cache-control") == "private, no-store"
        claims = jws.read(body["access_token"]).claims
        assert claims["sub"] == "u-1"
        assert claims["sid"] == body["session_id"]
        assert claims["scope"] == "projects:read monitoring:read"
        assert claims["exp"] - claims["iat"] == 900
        session = await ask(kit, "GET", f"{AUTH}/session", [bearer(body["access_token"])])
        assert session.json() == {
            "subject": "u-1",
            "scopes": ["monitoring:read", "projects:read"],
            "session_id": body["session_id"],
            "token_format": "enhanced",
            "expires_at": session.json()["expires_at"],
        }
        cookies = answer.cookies
        assert cookies["auth_token"].value == body["access_token"]
        assert cookies["refresh_token"].value == body["refresh_token"]
        assert cookies["csrf_token"].value == body["csrf_token"]


async def test_tokens_in_cookies_alone(open_kit: OpenKit) -> None:
    """With ``"transport": "cookie"`` no script sees a token, neither after the login nor after a refresh."""
    async with open_kit() as kit:
        await add_user(kit)
        browser = Browser(kit)
        body = await browser.log_in(transport="cookie")
        assert set(body) == ALWAYS
        assert (await browser.whoami()).json()["session_id"] == body["session_id"]
        refreshed = await browser.send("POST", f"{AUTH}/refresh")
        assert set(refreshed.json()) == ALWAYS
        assert (await browser.whoami()).status == 200


HIDDEN: Final = {"httponly": "", "secure": ""}
LAX: Final = {"samesite": "Lax", "path": "/"}
STRICT: Final = {"samesite": "Strict", "path": "/api/v1/auth"}


def attributes(answer: Answer, name: str) -> dict[str, str]:
    """A cookie's attributes but for its lifetime."""
    return {key: value for key, value in answer.cookies[name].attributes.items() if key != "max-age"}


async def test_cookies(open_kit: OpenKit) -> None:
    """Each cookie has just the attributes that were promised, and no Domain."""
    async with open_kit() as kit:
        await add_user(kit)
        answer = await log_in(kit)
        assert attributes(answer, "auth_token") == HIDDEN | LAX
        assert attributes(answer, "refresh_token") == HIDDEN | STRICT
        assert attributes(answer, "known_device") == HIDDEN | STRICT
        assert attributes(answer, "csrf_token") == {"secure": ""} | LAX
        lifetimes = {name: int(each.attributes["max-age"]) for name, each in answer.cookies.items()}
        expected = {"auth_token": 900, "refresh_token": 86_400, "csrf_token": 86_400, "access_token": 0}
        assert lifetimes == expected | {"known_device": 34_560_000}
        legacy = answer.cookies["access_token"]
        assert (legacy.value, legacy.attributes["path"]) == ("", "/")
        assert len(answer.all("set-cookie")) == 5


async def test_the_legacy_cookie_is_cleared(open_kit: OpenKit) -> None:
    """Login and logout clear ``access_token``, with the configured domain as well, and never set it."""
    async with open_kit(legacy_cookie_domain="example.com") as kit:
        await add_user(kit)
        login = await log_in(kit)
        logout = await ask(kit, "POST", f"{AUTH}/logout", [bearer(login.json()["access_token"])])
        for answer in (login, logout):
            cleared = [each for each in answer.all("set-cookie") if each.startswith("access_token=")]
            assert len(cleared) == 2
            gone = "access_token=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970"
            assert all(each.startswith(gone) for each in cleared)
            assert sum("; Domain=example.com" in each for each in cleared) == 1


@pytest.mark.parametrize(
    ("settings", "scheme", "address", "headers", "secure"),
    [
        ({}, "http", "127.0.0.1", [], False), ({}, "http", "::1", [], False), ({}, "https", "127.0.0.1", [], True),
        ({}, "http", "203.0.113.5", [], True), ({}, "http", "127.0.0.1", [("x-forwarded-proto", "https")], False),
        ({"trusted_proxies": ["127.0.0.1"]}, "http", "127.0.0.1", [("x-forwarded-proto", "https")], True),
        ({"cookie_secure": True}, "http", "127.0.0.1", [], True),
        ({"cookie_secure": False}, "http", "203.0.113.5", [], False),
        ({"cookie_host_prefix": True}, "http", "127.0.0.1", [], True),
        ({"env": "production"}, "http", "127.0.0.1", [], True),
    ],
)  # fmt: skip
async def test_secure(
    open_kit: OpenKit, settings: dict[str, Any], scheme: str, address: str, headers: list[Any], secure: bool
) -> None:
    """Cookies are Secure but for plain HTTP on this very machine in development, or where a setting says otherwise."""
    async with open_kit(**settings) as kit:
        await add_user(kit)
        answer = await ask(
            kit, "POST", f"{AUTH}/login", headers, json={"username": "alice", "password": PASSWORD}, address=address,
            scheme=scheme,
        )  # fmt: skip
        assert answer.status == 200
        assert {"secure" in each.attributes for each in answer.cookies.values()} == {secure}


async def test_prefixed_cookies(open_kit: OpenKit) -> None:
    """With the ``__Host-`` prefix, every cookie has it and meets its conditions: Secure, Path=/, no Domain."""
    async with open_kit(cookie_host_prefix=True, legacy_cookie_domain="example.com") as kit:
        await add_user(kit)
        answer = await log_in(kit)
        names = {"auth_token", "refresh_token", "csrf_token", "known_device"}
        assert answer.cookies.keys() == {f"__Host-{name}" for name in names} | {"access_token"}
        for name in names:
            each = answer.cookies[f"__Host-{name}"].attributes
            assert (each["path"], each["secure"], "domain" in each) == ("/", "", False)
        jar = "; ".join(f"{name}={each.value}" for name, each in answer.cookies.items() if each.value)
        value = answer.json()["csrf_token"]
        sent = [("cookie", jar), ("x-csrf-token", value), ("sec-fetch-site", "same-origin")]
        assert (await ask(kit, "POST", f"{AUTH}/refresh", sent)).status == 200


async def test_under_a_mount(open_kit: OpenKit) -> None:
    """Below a mount the narrow cookies have its path, so that browsers send them back."""
    async with open_kit() as kit:
        await add_user(kit)
        app = kit.wrap(kit, prefix="/some kit@x")
        content = {"username": "alice", "password": PASSWORD}
        answer = await ask(app, "POST", f"/some kit@x{AUTH}/login", json=content)
        assert answer.status == 200
        assert answer.cookies["refresh_token"].attributes["path"] == f"/some%20kit@x{AUTH}"
        assert answer.cookies["auth_token"].attributes["path"] == "/"


SAME: Final = {
    "alice": ("ALICE", "Alice", "  alice\u3000", "\uff41lice"), "jos\u00e9": ("jose\u0301", "JOS\u00c9"),
    "fin": ("\ufb01n",),
    "Stra\u00dfe": ("STRASSE", "strasse"), "\u0130x": ("\u0130X",), "a_b": ("A_B",),
}  # fmt: skip
OTHERS: Final = (
    "alice2",
    "al ice",
    "\u0430lice",
    "alice%",
    "alic_",
    "alice\u200b",
    "' OR 1=1 --",
    "jose",
    "axb",
    "ix",
    "*",
)


async def test_user_names(open_kit: OpenKit) -> None:
    """Names that differ in case or width only are the same; all others differ, even if a pattern would match."""
    async with open_kit() as kit:
        for name, spellings in SAME.items():
            await add_user(kit, name)
            for spelling in (name, *spellings):
                answer = await log_in(kit, spelling)
                assert (answer.status, jws.read(answer.json()["access_token"]).claims["sub"]) == (200, name)
    async with open_kit(login_limit_account="1000/minute") as kit:
        for name in OTHERS:
            refuses(await log_in(kit, name), "invalid_credentials")


async def test_what_is_no_password(open_kit: OpenKit) -> None:
    """An invalid password or name gets an error with its pointer, without the value."""
    async with open_kit() as kit:
        wrong: tuple[Any, ...] = ("", "x" * 1025, "a\0b", "\ud800", 7, None, ["x"])
        for each in wrong:
            for name, content in (
                ("password", {"username": "alice", "password": each}),
                ("username", {"username": each, "password": "x"}),
            ):
                answer = await ask(kit, "POST", f"{AUTH}/login", json=content)
                assert answer.status == 422
                assert answer.json()["errors"][0]["pointer"] == f"/{name}"
                assert b"xxx" not in answer.body


async def test_what_a_login_does_not_take(open_kit: OpenKit) -> None:
    """A login cannot choose scopes or the subject, and chooses a tenant only where tenants are configured."""
    async with open_kit() as kit:
        await add_user(kit)
        more: tuple[dict[str, Any], ...] = (
            {"scopes": ["admin"]}, {"subject": "root"}, {"transport": "none"}, {"tenant": "acme"}, {"x": 1},
        )  # fmt: skip
        for each in more:
            assert (await log_in(kit, **each)).status == 422


async def test_a_wrong_password(open_kit: OpenKit) -> None:
    """A wrong password is rejected without a cookie or a reason; passwords are not trimmed."""
    async with open_kit() as kit:
        await add_user(kit)
        for password in (f"{PASSWORD} ", PASSWORD.upper(), PASSWORD[:-1], "x", f"{PASSWORD}x" * 20):
            answer = await log_in(kit, password=password)
            refuses(answer, "invalid_credentials")
            assert not answer.all("set-cookie")


async def test_passwords_of_any_letters(open_kit: OpenKit) -> None:
    """A password may be any text of its length."""
    async with open_kit(registration="open") as kit:
        passwords = ("\U0001f511" * 8, "p\u00e4ssw\u00f6rter", " leading and trailing ", "'; DROP --")
        for number, password in enumerate(passwords):
            content = {"username": f"user {number}", "password": password}
            assert (await ask(kit, "POST", f"{AUTH}/register", json=content)).status == 201
            assert (await log_in(kit, f"user {number}", password)).status == 200


async def test_registration_is_off(open_kit: OpenKit) -> None:
    """Unless REGISTRATION says ``open`` there is no such path."""
    async with open_kit() as kit:
        answer = await ask(kit, "POST", f"{AUTH}/register", json={"username": "bob", "password": PASSWORD})
        assert (answer.status, answer.code) == (404, "not_found")
        assert "/register" not in (await ask(kit, "GET", "/api/v1/openapi.json")).body.decode()


async def test_registration(open_kit: OpenKit) -> None:
    """A registered user gets the default scopes, a random subject, and no session yet."""
    async with open_kit(registration="open") as kit:
        content = {"username": "Bob", "password": PASSWORD}
        answer = await ask(kit, "POST", f"{AUTH}/register", json=content)
        assert (answer.status, set(answer.json()), answer.json()["username"]) == (
            201,
            {"subject", "username"},
            "Bob",
        )
        assert len(answer.json()["subject"]) == 36
        assert not answer.all("set-cookie")
        session = await ask(
            kit, "GET", f"{AUTH}/session", [bearer((await log_in(kit, "bob")).json()["access_token"])]
        )
        assert session.json()["scopes"] == ["projects:read", "projects:write"]
        for twin in ("Bob", "BOB", "\uff42ob", " bob "):
            again = await ask(
                kit, "POST", f"{AUTH}/register", json={"username": twin, "password": "another one"}
            )
            assert (again.status, again.code) == (409, "username_taken")
        for more in ({"scopes": ["admin"]}, {"subject": "alice"}, {"disabled_at": None}, {"scope": "admin"}):
            assert (
                await ask(kit, "POST", f"{AUTH}/register", json={**content, "username": "eve", **more})
            ).status == 422


WRONG: Final = (
    ("bob", "short12", "/password"), ("bob", "x" * 257, "/password"), ("long enough", "Long Enough", "/password"),
    ("", PASSWORD, "/username"), (" ", PASSWORD, "/username"), ("x" * 256, PASSWORD, "/username"),
    ("a\nb", PASSWORD, "/username"), ("a\x7f", PASSWORD, "/username"), ("\ufdfa" * 255, PASSWORD, "/username"),
    ("\u3300\u3316\u3336" * 85, PASSWORD, "/username"),
)  # fmt: skip


async def test_who_cannot_register(open_kit: OpenKit) -> None:
    """Names and passwords have their lengths, also where letters are written out; a password is not the user's name."""
    async with open_kit(registration="open") as kit:
        for username, password, pointer in WRONG:
            answer = await ask(
                kit, "POST", f"{AUTH}/register", json={"username": username, "password": password}
            )
            assert answer.status == 422
            assert answer.json()["errors"][0]["pointer"] == pointer
        for username in ("\U0001f511" * 255, "\u0149" * 255):
            content = {"username": username, "password": PASSWORD}
            assert (await ask(kit, "POST", f"{AUTH}/register", json=content)).status == 201
            assert (await log_in(kit, username)).status == 200


async def test_clients_of_any_name(open_kit: OpenKit) -> None:
    """The client's user agent is truncated in the list of sessions, and any value is safe."""
    async with open_kit() as kit:
        await add_user(kit)
        for agent in (b"curl/8", b"x" * 10_000, b"\xff\xfe\x80", b"a\0b", b"<script>", b""):
            content = {"username": "alice", "password": PASSWORD}
            answer = await ask(kit, "POST", f"{AUTH}/login", [("user-agent", agent)], json=content)
            assert answer.status == 200
            mine = [bearer(answer.json()["access_token"])]
            [session] = [
                each
                for each in (await ask(kit, "GET", f"{AUTH}/sessions", mine)).json()["items"]
                if each["current"]
            ]
            assert session["user_agent"] == agent.decode("latin-1").replace("\0", "\ufffd")[:255]


async def test_tenants_log_in(open_kit: OpenKit) -> None:
    """With tenants a login names one, and the name and the password are of that tenant alone."""
    async with open_kit(tenant_claim="org") as kit:
        await add_user(kit, "alice", subject="a1", tenant="acme")
        await add_user(kit, "alice", "another password", subject="a2", tenant="umbrella")
        assert (await log_in(kit)).status == 422
        for tenant, password, status in (
            ("acme", PASSWORD, 200), ("umbrella", "another password", 200), ("umbrella", PASSWORD, 401),
            ("acme ", PASSWORD, 401),
            ("ACME", PASSWORD, 401), ("nobody's", PASSWORD, 401),
        ):  # fmt: skip
            answer = await log_in(kit, password=password, tenant=tenant)
            assert answer.status == status
            if status == 200:
                assert jws.read(answer.json()["access_token"]).claims["org"] == tenant


async def test_a_legacy_client_moves(open_kit: OpenKit) -> None:
    """A browser with the legacy cookie alone logs in and is on the new cookies from then on."""
    async with open_kit(legacy_secret=forge.LEGACY_SECRET) as kit:
        await add_user(kit)
        browser = Browser(kit)
        browser.jar["access_token"] = forge.legacy()
        assert (await browser.whoami()).json()["token_format"] == "legacy"
        await browser.log_in()
        assert browser.jar.keys() == {"auth_token", "refresh_token", "csrf_token", "known_device"}
        assert (await browser.whoami()).json()["token_format"] == "enhanced"


@pytest.mark.usefixtures("costly_passwords")
async def test_hashes_are_kept_up_to_date(open_kit: OpenKit) -> None:
    """A hash by other parameters is replaced at the next login, and the password stays the same."""
    async with open_kit() as kit:
        old = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
        await auth_services(kit).users.add("alice", old, subject="alice", scopes=())
        assert (await log_in(kit)).status == 200
        user = await auth_services(kit).users.by_name("alice")
        assert user is not None
        assert (user.password_hash or "").startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert (await log_in(kit)).status == 200


async def test_who_has_no_name_is_disabled_by_subject(open_kit: OpenKit) -> None:
    """A user of an OpenID provider is disabled and enabled by their subject in the kit."""
    async with open_kit() as kit:
        users = auth_services(kit).users
        came = await users.add_identity("https://provider.example", "7", subject="a subject", scopes=())
        token = auth_services(kit).issuer.issue(came.subject, ())
        session = [bearer(token)]
        assert (await ask(kit, "GET", f"{AUTH}/session", session)).status == 200
        assert (await users.set_disabled("a subject", disabled=True)).disabled_at is not None
        assert (await ask(kit, "GET", f"{AUTH}/session", session)).status == 401
        assert (await users.set_disabled("a subject", disabled=False)).disabled_at is None
        with pytest.raises(NotFoundError):
            await users.set_disabled("nobody", disabled=True)
