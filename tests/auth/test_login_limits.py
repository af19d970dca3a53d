"""Rate limits of logins, and that other clients cannot lock a user out permanently."""

import asyncio
import base64
from typing import Final

import pytest

from projkit import ProjKit
from projkit.auth import passwords
from projkit.errors import ConfigurationError
from tests.auth.asgi_client import Answer, Header, ask, cookie
from tests.auth.conftest import OpenKit
from tests.auth.users import AUTH, PASSWORD, Browser, ShiftedClock, add_user, auth_services, log_in
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio

WRONG: Final = "a wrong guess"


def is_limited(answer: Answer, policy: str, limit: int, window: int) -> None:
    """Assert that a response is a 429 for too many attempts."""
    assert (answer.status, answer.code) == (429, "rate_limited"), answer
    after = int(answer.header("retry-after") or "")
    assert 0 < after <= window
    assert answer.header("ratelimit-policy") == f'"{policy}";q={limit};w={window}'
    assert answer.header("ratelimit") == f'"{policy}";r=0;t={after}'
    assert not answer.all("set-cookie")


async def test_parallel_guesses(open_kit: OpenKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fifty guesses at once no more are evaluated than the limit allows, the right one among them or not."""
    verified = []
    verify = passwords.verify_hash

    def counting(stored: str, password: str) -> bool:
        verified.append(password)
        return verify(stored, password)

    monkeypatch.setattr(passwords, "verify_hash", counting)
    async with open_kit(login_limit_address="1000/minute") as kit:
        await add_user(kit)
        guesses = [f"guess {number}" for number in range(50)]
        answers = await asyncio.gather(*(log_in(kit, "alice", guess) for guess in guesses))
        statuses = [answer.status for answer in answers]
        assert (statuses.count(401), statuses.count(429)) == (10, 40)
        assert len(verified) == 10
        for answer in answers:
            if answer.status == 429:
                is_limited(answer, "account", 10, 300)
        is_limited(await log_in(kit), "account", 10, 300)
        assert len(verified) == 10


async def test_parallel_guesses_from_everywhere(open_kit: OpenKit) -> None:
    """It does not help to guess from many addresses, or to write the name in many ways."""
    async with open_kit() as kit:
        await add_user(kit)
        names = ("alice", "ALICE", "Alice ", "\uff41lice", "aLICE")
        attempts = [
            log_in(kit, names[number % 5], f"guess {number}", address=f"198.51.100.{number}")
            for number in range(30)
        ]
        statuses = [answer.status for answer in await asyncio.gather(*attempts)]
        assert (statuses.count(401), statuses.count(429)) == (10, 20)


# One name in seven spellings: case, width, composition, compatibility, and spaces around it.
SPELLINGS: Final = (
    "zo\u00eb \ufb01x", "ZO\u00cb FIX", "zoe\u0308 fix", "Zoe\u0308 \uff26\uff49\uff58", " zo\u00eb fix\u2003",
    "zo\u00eb\u00a0fix", "\uff3a\uff4f\u00eb \ufb01x",
)  # fmt: skip


async def test_seventy_guesses_in_seven_spellings(open_kit: OpenKit) -> None:
    """Ten guesses for each of seven spellings of one name are ten guesses in all, and so are those by its owner."""
    async with open_kit(login_limit_address="1000/minute") as kit:
        await add_user(kit, SPELLINGS[0])
        guesses = [(name, f"guess {number}") for number in range(10) for name in SPELLINGS]
        statuses = [(await log_in(kit, *guess)).status for guess in guesses]
        assert statuses == [401] * 10 + [429] * 60
        for name in SPELLINGS:
            is_limited(await log_in(kit, name), "account", 10, 300)


@pytest.mark.parametrize("stored", SPELLINGS)
async def test_a_name_is_taken_in_every_spelling(open_kit: OpenKit, stored: str) -> None:
    """However a user was added, no spelling of the name can be registered again, and each of them logs in."""
    async with open_kit(registration="open", login_limit_address="1000/minute") as kit:
        await add_user(kit, stored)
        for name in SPELLINGS:
            content = {"username": name, "password": "another long password"}
            assert (await ask(kit, "POST", f"{AUTH}/register", json=content)).code == "username_taken"
            assert (await log_in(kit, name)).status == 200


async def test_the_window_ends(open_kit: OpenKit, shifted_clock: ShiftedClock) -> None:
    """Refused attempts do not prolong the time after which an account opens again."""
    async with open_kit(login_limit_account="2/minute", login_limit_address="1000/minute") as kit:
        await add_user(kit)
        for _ in range(2):
            assert (await log_in(kit, password=WRONG)).status == 401
        for _ in range(5):
            is_limited(await log_in(kit), "account", 2, 60)
            shifted_clock.advance(seconds=11)
        shifted_clock.advance(seconds=6)
        assert (await log_in(kit)).status == 200


async def test_good_logins_do_not_count(open_kit: OpenKit) -> None:
    """A user with the right password may log in as often as the address limit allows, and earlier failures
    still count.
    """
    async with open_kit(login_limit_account="2/hour", login_limit_address="1000/minute") as kit:
        await add_user(kit)
        for _ in range(4):
            assert (await log_in(kit)).status == 200
        assert (await log_in(kit, password=WRONG)).status == 401
        assert (await log_in(kit)).status == 200
        assert (await log_in(kit, password=WRONG)).status == 401
        is_limited(await log_in(kit), "account", 2, 3600)


async def test_a_victim_is_not_locked_out(open_kit: OpenKit) -> None:
    """A browser that has logged in before gets in whatever others guess, and its own failures are counted apart."""
    async with open_kit(login_limit_account="2/hour", login_limit_address="1000/minute") as kit:
        await add_user(kit)
        browser = Browser(kit)
        await browser.log_in()
        await browser.send("POST", f"{AUTH}/logout")
        for _ in range(5):
            await log_in(kit, password=WRONG, address="198.51.100.7")
        is_limited(await log_in(kit), "account", 2, 3600)
        content = {"username": "ALICE", "password": PASSWORD, "transport": "cookie"}
        assert (await browser.send("POST", f"{AUTH}/login", json=content)).status == 200
        guess = {"username": "alice", "password": WRONG}
        statuses = [(await browser.send("POST", f"{AUTH}/login", json=guess)).status for _ in range(3)]
        assert statuses == [401, 401, 429]


async def test_device_tokens(open_kit: OpenKit) -> None:
    """A device token is valid for its own account and in one encoding; no other spelling of it is accepted."""
    async with open_kit(login_limit_account="2/hour", login_limit_address="1000/minute") as kit:
        for name in ("alice", "bob"):
            await add_user(kit, name)
        limits = auth_services(kit).built_in.limits
        device_token = limits.new_device_token("0::alice")
        while "-" not in device_token or "_" not in device_token:
            device_token = limits.new_device_token("0::alice")
        raw = base64.urlsafe_b64decode(device_token)
        for name in ("alice", "bob"):
            for _ in range(3):
                await log_in(kit, name, WRONG)
        spellings = [
            device_token.replace("-", "+"), device_token.replace("_", "/"), base64.b64encode(raw).decode(),
            device_token[:-1], device_token + "=",
            device_token.swapcase(),
            base64.urlsafe_b64encode(b"\2" + raw[1:]).decode(), base64.urlsafe_b64encode(raw[:-1] + b"\0").decode(),
            "A" * 44, "", "é" * 44,
            limits.new_device_token("0::bob"), limits.new_device_token("1:0:alice"),
        ]  # fmt: skip
        for spelling in spellings:
            is_limited(
                await log_in(kit, headers=[("cookie", f"known_device={spelling}".encode())]),
                "account",
                2,
                3600,
            )
        two = [cookie(known_device=device_token), cookie(known_device=device_token)]
        is_limited(await log_in(kit, headers=two), "account", 2, 3600)
        is_limited(await log_in(kit, "bob", headers=[cookie(known_device=device_token)]), "account", 2, 3600)
        assert (await log_in(kit, headers=[cookie(known_device=device_token)])).status == 200


async def test_an_address(open_kit: OpenKit, shifted_clock: ShiftedClock) -> None:
    """Attempts from one address are limited, for all accounts and outcomes; other addresses are not affected."""
    async with open_kit(login_limit_address="3/minute") as kit:
        await add_user(kit)
        for name in ("alice", "nobody", "somebody"):
            assert (await log_in(kit, name, address="198.51.100.7")).status in {200, 401}
        for name in ("alice", "anybody"):
            is_limited(await log_in(kit, name, address="198.51.100.7"), "address", 3, 60)
        assert (await log_in(kit, address="198.51.100.8")).status == 200
        shifted_clock.advance(seconds=61)
        assert (await log_in(kit, address="198.51.100.7")).status == 200


async def test_registering_counts(open_kit: OpenKit) -> None:
    """A registration counts as an attempt, so names cannot be enumerated or the table filled faster."""
    async with open_kit(login_limit_address="2/minute", registration="open") as kit:
        for number, status in enumerate((201, 201, 429)):
            content = {"username": f"user {number}", "password": PASSWORD}
            answer = await ask(kit, "POST", f"{AUTH}/register", json=content, address="198.51.100.7")
            assert answer.status == status
        is_limited(answer, "address", 2, 60)


FORGED: Final[tuple[Header, ...]] = (
    ("x-forwarded-for", "192.0.2.{}"), ("x-forwarded-for", "192.0.2.{}, 10.0.0.1"), ("forwarded", "for=192.0.2.{}"),
    ("x-real-ip", "192.0.2.{}"), ("x-client-ip", "192.0.2.{}"), ("true-client-ip", "192.0.2.{}"), ("via", "192.0.2.{}"),
    ("cf-connecting-ip", "192.0.2.{}"), ("x-forwarded-for", "nonsense {}"), ("x-forwarded-host", "192.0.2.{}"),
)  # fmt: skip


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8"]], ids=["nobody", "another network"])
async def test_forged_addresses(open_kit: OpenKit, trusted: list[str]) -> None:
    """A client's own X-Forwarded-For does not reset a limit, unless a trusted proxy sends it."""
    async with open_kit(login_limit_address="3/minute", trusted_proxies=trusted) as kit:
        statuses = []
        for number in range(3):
            name, value = FORGED[number]
            sent = [(name, str(value).format(number))]
            statuses.append((await log_in(kit, headers=sent, address="198.51.100.7")).status)
        assert statuses == [401, 401, 401]
        for number, (name, value) in enumerate(FORGED):
            sent = [(name, str(value).format(number))]
            is_limited(await log_in(kit, headers=sent, address="198.51.100.7"), "address", 3, 60)
        assert (await log_in(kit, address="192.0.2.1")).status == 401


async def statuses_of(kit: ProjKit, forwarded: list[str], address: str = "10.0.0.1") -> list[int]:
    """The statuses of attempts that a proxy passes on with these addresses."""
    return [
        (await log_in(kit, headers=[("x-forwarded-for", each)], address=address)).status for each in forwarded
    ]


async def test_a_trusted_proxy(open_kit: OpenKit) -> None:
    """Behind a trusted proxy, clients are counted by the address that the proxy added, not by those before
    it.
    """
    limits = {"login_limit_address": "2/minute", "login_limit_account": "1000/minute"}
    async with open_kit(**limits, trusted_proxies=["10.0.0.0/8", "fd00::/8"]) as kit:
        assert await statuses_of(kit, ["192.0.2.1"] * 3) == [401, 401, 429]
        assert await statuses_of(kit, ["192.0.2.2"] * 3, "10.9.9.9") == [401, 401, 429]
        # What the client put before its own address.
        assert await statuses_of(kit, [f"198.51.100.{n}, 192.0.2.3" for n in range(3)]) == [401, 401, 429]
        assert await statuses_of(kit, [f"10.0.0.{n}, 192.0.2.4" for n in range(3)]) == [401, 401, 429]
        # Two proxies, both trusted.
        assert await statuses_of(kit, [f"198.51.100.{n}, 192.0.2.5, 10.0.0.8" for n in range(3)]) == [
            401,
            401,
            429,
        ]
        # Nonsense where the address should be counts as the proxy's own.
        assert await statuses_of(kit, ["nonsense", "", "192.0.2.6:80:80"], "10.0.0.3") == [401, 401, 429]
        # Some proxies add the client's port.
        assert await statuses_of(kit, ["192.0.2.7", "192.0.2.7:80", "192.0.2.7:81"]) == [401, 401, 429]
        assert await statuses_of(kit, ["2001:db8::7", "[2001:db8::7]", "[2001:db8::7]:80"]) == [401, 401, 429]
        two = [("x-forwarded-for", "198.51.100.9"), ("x-forwarded-for", "192.0.2.1")]
        assert (await log_in(kit, headers=two, address="10.0.0.1")).status == 429
        assert (
            await log_in(kit, headers=[("x-forwarded-for", "192.0.2.1")], address="203.0.113.9")
        ).status == 401


@pytest.mark.parametrize(("trusted", "last"), [(["unix"], 401), (["10.0.0.0/8"], 429), ([], 429)])
async def test_a_proxy_on_a_unix_socket(open_kit: OpenKit, trusted: list[str], last: int) -> None:
    """A connection over a Unix socket has no address; what it forwards is trusted only with ``unix``."""
    async with open_kit(login_limit_address="2/minute", trusted_proxies=trusted) as kit:
        assert await statuses_of(kit, [f"192.0.2.{n}" for n in range(3)], "") == [401, 401, last]


async def test_networks_of_a_subscriber(open_kit: OpenKit) -> None:
    """An IPv6 subscriber is counted by their /64, and an IPv4 address is one in whatever form it comes."""
    async with open_kit(login_limit_address="2/minute") as kit:
        statuses = [(await log_in(kit, address=f"2001:db8::{number}")).status for number in range(1, 4)]
        assert statuses == [401, 401, 429]
        assert (await log_in(kit, address="2001:db8:0:1::1")).status == 401
        mixed = ("198.51.100.7", "::ffff:198.51.100.7", "::ffff:c633:6407")
        assert [(await log_in(kit, address=address)).status for address in mixed] == [401, 401, 429]


@pytest.mark.parametrize("limit", ["", "10", "ten per minute", "0/minute", "-1/minute", "10/fortnight"])
def test_limits_that_are_none(limit: str) -> None:
    """An invalid limit, or one of zero, is rejected at startup with its name."""
    for name in ("login_limit_account", "login_limit_address"):
        with pytest.raises(ConfigurationError, match=f"PROJKIT_{name.upper()}"):
            settings_for("sqlite:///x.db", **{name: limit})
