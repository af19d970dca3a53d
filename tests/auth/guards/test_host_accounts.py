"""Guesses at a host's users, of which one account has many names, count against the account."""

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from projkit import Principal, ProjKit, Rejected
from projkit.auth.login import HostLogin, HostLoginResult
from tests.auth.guards.client import Answer, http
from tests.auth.guards.guarded import JSON
from tests.auth.guards.test_host_users import cookies_of, log_in
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery staple"
# A look-up that folds accents, case and spaces finds one account by each of these names.
NAMES = ("renée", "Renée", "renee\u0301", "RENE\u0301E", "renèe", "renee", "re\u0300nee ")
# Nothing but the host tells that these names belong to one account.
ALIASES = ("renee", "renee@example.com", "r.enee", "4711", "+49 30 1234", "reneee", "renee+spam")


def fold(name: str) -> str:
    """Return the name as a lenient collation compares it."""
    decomposed = unicodedata.normalize("NFKD", name.strip().casefold())
    return "".join(each for each in decomposed if not unicodedata.combining(each))


def host_users(accounts: Mapping[str, str], *, names_account: bool, tenant: str = "") -> HostLogin:
    """Return a host's ``authenticate`` over accounts by folded name; it may name the account of a wrong password."""

    def authenticate(username: str, password: str) -> HostLoginResult:
        subject = accounts.get(fold(username))
        if subject is None:
            return None
        if password == PASSWORD:
            return Principal(subject, tenant_id=tenant)
        return Rejected(subject, tenant_id=tenant) if names_account else None

    return authenticate


@asynccontextmanager
async def hosted(url: str, authenticate: HostLogin, **changes: object) -> AsyncIterator[ProjKit]:
    """A kit with a host's users, without a limit per address."""
    settings = settings_for(url, login_limit_address="1000/minute", **changes)
    kit = ProjKit(settings, authenticate=authenticate)
    async with kit.lifespan():
        yield kit


async def guess(kit: ProjKit, names: tuple[str, ...], times: int = 10) -> list[int]:
    """Return the statuses of wrong guesses, each name as often as the limit allows."""
    return [(await log_in(kit, name, f"guess {n}")).status for n in range(times) for name in names]


@pytest.fixture(params=["database", "redis"])
def changes(request: pytest.FixtureRequest) -> dict[str, object]:
    """The settings of each store of the counts."""
    if request.param == "database":
        return {}
    servers = request.getfixturevalue("redis_alone")
    return {"redis_url": servers.url, "redis_prefix": f"{uuid4().hex}:"}


async def test_seventy_guesses(any_database_url: str, changes: dict[str, object]) -> None:
    """Of seventy guesses under seven names of one account, ten get through; then no password does."""
    accounts = dict.fromkeys(map(fold, ALIASES), "7")
    async with hosted(any_database_url, host_users(accounts, names_account=True), **changes) as kit:
        statuses = await guess(kit, ALIASES)
        assert statuses == [401] * 10 + [429] * 60
        limited = await log_in(kit, ALIASES[6], PASSWORD)
        assert (limited.status, limited.header("ratelimit-policy")) == (429, '"account";q=10;w=300')
        assert not cookies_of(limited)


async def test_parallel_guesses(sqlite_url: str) -> None:
    """Of seventy guesses at once, no more than ten results are disclosed, the correct password among them or not."""
    accounts = dict.fromkeys(map(fold, ALIASES), "7")
    async with hosted(sqlite_url, host_users(accounts, names_account=True)) as kit:
        sent = [(name, f"guess {n}") for n in range(10) for name in ALIASES]
        answers = await asyncio.gather(*(log_in(kit, *each) for each in sent))
        statuses = [answer.status for answer in answers]
        assert (statuses.count(401), statuses.count(429)) == (10, 60)


@pytest.mark.parametrize("names_account", [True, False])
async def test_accents_are_no_way_around(sqlite_url: str, *, names_account: bool) -> None:
    """Names that a lenient look-up may not distinguish count together, even if the host names no account."""
    async with hosted(sqlite_url, host_users({"renee": "7"}, names_account=names_account)) as kit:
        assert await guess(kit, NAMES) == [401] * 10 + [429] * 60


async def test_other_accounts_are_not_affected(sqlite_url: str) -> None:
    """A limited account limits no other one, and a good login does not count."""
    accounts = {**dict.fromkeys(map(fold, ALIASES), "7"), "bob": "8"}
    async with hosted(
        sqlite_url, host_users(accounts, names_account=True), login_limit_account="2/hour"
    ) as kit:
        assert await guess(kit, ALIASES, 1) == [401] * 2 + [429] * 5
        for _ in range(4):
            assert (await log_in(kit, "bob", PASSWORD)).status == 200
        assert (await log_in(kit, "bob", "wrong")).status == 401
        assert (await log_in(kit, "bob", PASSWORD)).status == 200


async def test_a_victim_is_not_locked_out(sqlite_url: str) -> None:
    """A browser that has logged in before gets in, whatever others guess under other names."""
    accounts = dict.fromkeys(map(fold, ALIASES), "7")
    async with hosted(
        sqlite_url, host_users(accounts, names_account=True), login_limit_account="2/hour"
    ) as kit:
        device = cookies_of(await log_in(kit, ALIASES[0], PASSWORD))["known_device"]
        await guess(kit, ALIASES, 1)
        assert (await log_in(kit, ALIASES[3], PASSWORD)).status == 429
        assert (await from_browser(kit, device, PASSWORD)).status == 200
        guesses = [(await from_browser(kit, device, f"guess {n}")).status for n in range(3)]
        assert guesses == [401, 401, 429]


async def test_a_device_token_is_of_no_use_for_a_similar_name(sqlite_url: str) -> None:
    """Who has an account with a similar name cannot create device tokens for more guesses at the other account."""
    subjects = {"renee": "7", "renée": "8", "Renee": "9"}

    def authenticate(username: str, password: str) -> HostLoginResult:
        subject = subjects[username]
        own_password = PASSWORD if subject != "7" else "of the victim"
        return Principal(subject) if password == own_password else Rejected(subject)

    async with hosted(sqlite_url, authenticate, login_limit_account="2/hour") as kit:
        devices = [
            cookies_of(await log_in(kit, name, PASSWORD))["known_device"] for name in ("renée", "Renee") * 2
        ]
        statuses = [(await from_browser(kit, each, "guess", "renee")).status for each in devices]
        assert statuses == [401, 401, 429, 429]
        assert (await from_browser(kit, devices[0], PASSWORD, "renée")).status == 200


@pytest.mark.parametrize("wrong", [True, "7", {"sub": "7"}, ("7", [])], ids=repr)
async def test_an_authenticate_that_returns_something_else(
    sqlite_url: str, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A result that is none of the three logs nobody in, and the log says what the function must return."""
    async with hosted(sqlite_url, lambda *_: wrong) as kit:
        answer = await log_in(kit, "renee", PASSWORD)
    assert (answer.status, cookies_of(answer)) == (500, {})
    expected = f"authenticate must return a Principal, Rejected or None, not {type(wrong).__name__}"
    assert expected in caplog.text


async def from_browser(kit: ProjKit, device: str, password: str, name: str = ALIASES[0]) -> Answer:
    """Log in from a browser with a device token."""
    body = f'{{"username":"{name}","password":"{password}"}}'.encode()
    headers = [*JSON, (b"cookie", f"known_device={device}".encode())]
    return await http(kit, "/api/v1/auth/login", method="POST", headers=headers, body=body)


async def test_a_denied_account_discloses_no_password(sqlite_url: str) -> None:
    """A correct password for another tenant counts like a wrong one, so that counting does not tell them apart."""
    users = host_users({"renee": "7"}, names_account=True, tenant="acme")
    async with hosted(sqlite_url, users, tenant_claim="org", login_limit_account="3/hour") as kit:
        sent = ["wrong", PASSWORD, PASSWORD, "wrong", PASSWORD]
        statuses = [(await log_in(kit, "renee", each, tenant="globex")).status for each in sent]
        assert statuses == [401] * 3 + [429] * 2
        assert (await log_in(kit, "renee", PASSWORD, tenant="acme")).status == 429
