"""Which credential of a request decides, by exact bytes, and how credentials are counted."""

import itertools
from typing import Any, Final

import pytest

from projkit import ProjKit
from tests.auth import forge
from tests.auth.asgi_client import Answer, Header, ask, refuses
from tests.auth.conftest import OpenKit
from tests.auth.users import auth_services

pytestmark = pytest.mark.anyio

URL: Final = "/api/v1/auth/session"
TRANSPORTS: Final = ("bearer", "auth_token", "access_token")


@pytest.fixture
def any_database_url(sqlite_url: str) -> str:
    """The database makes no difference to the credentials of a request."""
    return sqlite_url


async def whoami(kit: ProjKit, *headers: Header) -> Answer:
    """Return the response to a request with these headers."""
    return await ask(kit, "GET", URL, headers)


def counted(kit: ProjKit) -> dict[tuple[str, ...], float]:
    """Return the numbers of counted credentials by transport, format and outcome."""
    samples = [sample for metric in kit.registry.collect() for sample in metric.samples]
    names = ("transport", "format", "outcome")
    return {
        tuple(sample.labels[name] for name in names): sample.value
        for sample in samples
        if sample.name == "projkit_auth_credentials_total" and sample.value
    }


def good(transport: str) -> str:
    """Return a token that is valid for a transport, with the transport as its subject."""
    return (
        forge.legacy(sub=transport)
        if transport == "access_token"
        else forge.token(payload=forge.claims(sub=transport))
    )


def header(transport: str, value: str) -> Header:
    """Return the header that carries a value by a transport."""
    return (
        ("authorization", f"Bearer {value}") if transport == "bearer" else ("cookie", f"{transport}={value}")
    )


BAD: Final = {"empty": "", "not a token": "x", "unsigned": f"{forge.b64(forge.header())}.{forge.b64({})}."}


@pytest.mark.parametrize("present", [*itertools.product((False, True), repeat=3)], ids=repr)
async def test_the_first_one_decides(shared_kit: ProjKit, present: tuple[bool, ...]) -> None:
    """Bearer precedes ``auth_token``, which precedes ``access_token``, in any order of the headers."""
    sent = [transport for transport, is_sent in zip(TRANSPORTS, present, strict=True) if is_sent]
    for order in itertools.permutations(sent):
        answer = await whoami(shared_kit, *(header(transport, good(transport)) for transport in order))
        if sent:
            assert (answer.status, answer.json()["subject"]) == (200, sent[0])
            assert answer.json()["token_format"] == ("legacy" if sent[0] == "access_token" else "enhanced")
        else:
            refuses(answer, "missing_credentials")


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("transport", TRANSPORTS[:2])
async def test_a_bad_one_decides_too(shared_kit: ProjKit, transport: str, bad: str) -> None:
    """A credential that is present but invalid is rejected: no lower-ranked credential is tried instead."""
    lower = TRANSPORTS[TRANSPORTS.index(transport) + 1 :]
    refuses(await whoami(shared_kit, header(transport, bad), *(header(each, good(each)) for each in lower)))
    expired = forge.token(payload=forge.claims(exp=1))
    refuses(
        await whoami(shared_kit, header(transport, expired), *(header(each, good(each)) for each in lower))
    )


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_a_bad_lower_one_does_no_harm(shared_kit: ProjKit, bad: str) -> None:
    """A leftover legacy cookie does not lock a user out."""
    for transport, lower in (
        ("bearer", "auth_token"),
        ("bearer", "access_token"),
        ("auth_token", "access_token"),
    ):
        answer = await whoami(shared_kit, header(lower, bad), header(transport, good(transport)))
        assert (answer.status, answer.json()["subject"]) == (200, transport)


async def test_counting(open_kit: OpenKit) -> None:
    """Each credential is counted once by transport, format and outcome, including ignored ones."""
    async with open_kit(legacy_secret=forge.LEGACY_SECRET) as kit:
        enhanced = auth_services(kit).issuer.issue("alice", ())
        legacy = forge.legacy()
        await whoami(kit, header("bearer", enhanced), header("auth_token", "x"), header("access_token", "x"))
        await whoami(kit, header("auth_token", enhanced), header("access_token", "x"))
        await whoami(kit, header("access_token", legacy))
        await whoami(kit, header("bearer", legacy))
        await whoami(kit, header("auth_token", legacy))
        await whoami(kit, header("auth_token", enhanced + "A"))
        await whoami(kit, header("access_token", "x"))
        await whoami(kit, ("authorization", "Basic YTpi"))
        await whoami(kit, header("bearer", enhanced), header("bearer", enhanced))
        await whoami(kit)
        assert counted(kit) == {
            ("bearer", "enhanced", "accepted"): 1, ("auth_token", "enhanced", "accepted"): 1,
            ("access_token", "legacy", "accepted"): 1, ("bearer", "legacy", "accepted"): 1,
            ("auth_token", "unknown", "ignored"): 1, ("access_token", "unknown", "ignored"): 2,
            ("auth_token", "legacy", "refused"): 1, ("auth_token", "enhanced", "refused"): 1,
            ("access_token", "unknown", "refused"): 1, ("unknown", "unknown", "refused"): 2,
        }  # fmt: skip


async def test_twice_the_header(shared_kit: ProjKit) -> None:
    """Two ``Authorization`` headers are ambiguous: equal or different, valid or not, with or without cookies."""
    values = [f"Bearer {good('bearer')}", f"Bearer {good('auth_token')}", "Bearer x", "Basic YTpi", ""]
    for first, second in itertools.product(values, repeat=2):
        sent = [("authorization", first), ("authorization", second)]
        refuses(await whoami(shared_kit, *sent), "ambiguous_credentials")
        refuses(
            await whoami(shared_kit, *sent, header("auth_token", good("auth_token"))), "ambiguous_credentials"
        )
    answer = await whoami(shared_kit, ("Authorization", values[0]), ("AUTHORIZATION", values[0]))
    refuses(answer, "ambiguous_credentials")
    assert answer.header("www-authenticate") == 'Bearer realm="projkit", error="invalid_request"'
    refuses(await whoami(shared_kit, ("authorization", f"{values[0]}, {values[1]}")))


@pytest.mark.parametrize("name", TRANSPORTS[1:])
async def test_twice_the_cookie(shared_kit: ProjKit, name: str) -> None:
    """A repeated credential cookie is ambiguous, in one header or in two, whatever other credentials there
    are.
    """
    token, other = good(name), good(name)[:-4]
    for first, second in ((token, token), (token, other), (other, token), ("", token), (token, "")):
        for separator in ("; ", ";", "; theme=dark; ", ";;"):
            refuses(
                await whoami(shared_kit, ("cookie", f"{name}={first}{separator}{name}={second}")),
                "ambiguous_credentials",
            )
        refuses(await whoami(shared_kit, header(name, first), header(name, second)), "ambiguous_credentials")
        separated = (header(name, first), ("cookie", "theme=dark"), header(name, second))
        refuses(await whoami(shared_kit, *separated), "ambiguous_credentials")
        refuses(
            await whoami(shared_kit, *separated, header("bearer", good("bearer"))), "ambiguous_credentials"
        )


PADDINGS: Final = (
    b"\xa0", b"\x85", b" ", b"  ", b"\t", b"\x0b", b"\x0c", b"\r", b"\n", b"\0", b'"', b"'", b"\\", b"\xc2\xa0",
    b"\xe2\x80\x8b", b"\xef\xbb\xbf", b"%20", b"+", b".", b"[]", b"\x1f", b"\x7f", b"$", b"__Host-", b"__Secure-", b",",
)  # fmt: skip


@pytest.mark.parametrize("name", [b"auth_token", b"access_token"])
@pytest.mark.parametrize("padding", PADDINGS, ids=[str(each) for each in PADDINGS])
async def test_padded_names(shared_kit: ProjKit, name: bytes, padding: bytes) -> None:
    """A name with anything before or after it is another cookie, alone or next to the right one."""
    token = good(name.decode()).encode()
    for padded in (padding + name, name + padding, padding + name + padding, name[:4] + padding + name[4:]):
        for before in (b"", b"theme=dark;", b"theme=dark; "):
            answer = await whoami(shared_kit, ("cookie", before + padded + b"=" + token))
            if before == b"theme=dark;" and padded == b" " + name:  # that space belongs to the semicolon
                assert answer.status == 200
            else:
                refuses(answer, "missing_credentials")
        both = b"; ".join([name + b"=" + token, padded + b"=x"])
        assert (await whoami(shared_kit, ("cookie", both))).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        "AUTH_TOKEN={}", "Auth_Token={}", "auth-token={}", "auth_token", "auth_token {}", "auth_token:{}", "={}", "{}",
        "auth_token%3D{}", "xauth_token={}", "auth_tokens={}", "auth_token_={}", 'theme="auth_token={}"',
        "a=auth_token={}",
        "a=b, auth_token={}", "$Version=1, auth_token={}", "access_token.0={}", "\uff41uth_token={}",
        "aut\u0302h_token={}",
    ],
)  # fmt: skip
async def test_other_names(shared_kit: ProjKit, sent: str) -> None:
    """Cookie names are compared exactly, and a name inside a value does not count."""
    value = sent.format(good("auth_token")).encode()
    refuses(await whoami(shared_kit, ("cookie", value)), "missing_credentials")


async def test_values_to_the_letter(shared_kit: ProjKit) -> None:
    """The secure cookie's value is the token itself: no quotes, no scheme, no spaces are taken off it."""
    token = good("auth_token")
    for value in (
        f'"{token}"',
        f"Bearer {token}",
        f" {token}",
        f"{token} ",
        f"{token}\t",
        f"={token}",
        f"{token}=",
        f"%22{token}",
    ):
        refuses(await whoami(shared_kit, ("cookie", f"auth_token={value}")))


@pytest.mark.parametrize(
    ("form", "good_form"),
    [
        ("{}", True), ('"{}"', True), ("Bearer {}", True), ("bearer {}", True), ("BEARER {}", True),
        ('"Bearer {}"', True),
        ('"bearer {}"', True), ("'{}'", False), ('"{}', False), ('{}"', False), ('""{}""', False),
        ("Bearer  {}", False),
        ("Bearer Bearer {}", False), ("Bearer%20{}", False), ("Basic {}", False), ('Bearer "{}"', False),
        ("Token {}", False),
        (" {}", False), ("{} ", False), ("Bearer", False), ('"', False), ('""', False), ("Bearer ", False),
        ("\\\"{}\\\"", False),
    ],
)  # fmt: skip
async def test_values_of_the_legacy_cookie(shared_kit: ProjKit, form: str, good_form: bool) -> None:
    """Of the legacy cookie one pair of double quotes and one ``Bearer`` are taken off, as its writers put them on."""
    answer = await whoami(shared_kit, ("cookie", f"access_token={form.format(good('access_token'))}"))
    if good_form:
        assert (answer.status, answer.json()["subject"]) == (200, "access_token")
    else:
        refuses(answer)


async def test_formats_and_places(shared_kit: ProjKit) -> None:
    """A legacy token is accepted as Bearer and in its own cookie, never in auth_token; an enhanced one in all three."""
    for transport in TRANSPORTS:
        assert (await whoami(shared_kit, header(transport, forge.token()))).status == 200
        legacy = await whoami(shared_kit, header(transport, forge.legacy()))
        assert legacy.status == (401 if transport == "auth_token" else 200)


async def test_prefixed_names(open_kit: OpenKit) -> None:
    """With COOKIE_HOST_PREFIX, the cookie without the prefix is ignored; the legacy cookie keeps its name."""
    async with open_kit(cookie_host_prefix=True, legacy_secret=forge.LEGACY_SECRET) as kit:
        token = auth_services(kit).issuer.issue("alice", ())
        assert (await whoami(kit, ("cookie", f"__Host-auth_token={token}"))).status == 200
        for name in ("auth_token", "__host-auth_token", "__Secure-auth_token", "__Host-__Host-auth_token"):
            refuses(await whoami(kit, ("cookie", f"{name}={token}")), "missing_credentials")
        assert (await whoami(kit, ("cookie", f"auth_token=x; __Host-auth_token={token}"))).status == 200
        assert (await whoami(kit, ("cookie", f"access_token={forge.legacy()}"))).status == 200
        refuses(await whoami(kit, ("cookie", f"__Host-access_token={forge.legacy()}")), "missing_credentials")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_ignored_places(shared_kit: ProjKit, transport: str) -> None:
    """A token in the query, the body, or any other header is no credential."""
    token: Any = good(transport)
    for query in (f"access_token={token}", f"token={token}", f"auth_token={token}", f"bearer_token={token}"):
        refuses(await ask(shared_kit, "GET", URL, query=query), "missing_credentials")
    names = (
        "x-authorization",
        "proxy-authorization",
        "x-access-token",
        "x-auth-token",
        "authorization2",
        "set-cookie",
    )
    for name in names:
        refuses(await whoami(shared_kit, (name, f"Bearer {token}")), "missing_credentials")
        refuses(await whoami(shared_kit, (name, f"auth_token={token}")), "missing_credentials")
    body = {"access_token": token}
    refuses(await ask(shared_kit, "POST", "/api/v1/projects", json=body), "missing_credentials")
