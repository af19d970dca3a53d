"""All malformed tokens get the same 401, in bounded time, never a 500."""

import json
import re
import string
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from projkit import ProjKit
from tests.auth import forge
from tests.auth.asgi_client import Answer, Header, ask, bearer, cookie, refuses

pytestmark = pytest.mark.anyio

URL: Final = "/api/v1/auth/session"
BASE64URL: Final = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
# The promise is 5 ms. Time on the processor alone is counted, the best of five, and twenty times that allowed: what
# goes through its input step by step takes a hundred times.
BOUND_SECONDS: Final = 0.1


async def entries(kit: ProjKit, token: str | bytes) -> list[Answer]:
    """Return the responses to a token by each transport."""
    raw = token if isinstance(token, bytes) else token.encode("utf-8", "surrogatepass")
    headers: list[Header] = [("authorization", b"Bearer " + raw)]
    headers += [("cookie", name + b"=" + raw) for name in (b"auth_token", b"access_token")]
    return [await ask(kit, "GET", URL, [header]) for header in headers]


def last_bits(text: str, change: int) -> str:
    """Return the text with other bits in its last character, which decoders ignore."""
    return text[:-1] + BASE64URL[BASE64URL.index(text[-1]) ^ change]


Mangle = Callable[[str, str, str], str]
MANGLED: Final[dict[str, Mangle]] = {
    "no signature": lambda h, p, s: f"{h}.{p}.",
    "no signature and no dot": lambda h, p, s: f"{h}.{p}",
    "no payload": lambda h, p, s: f"{h}..{s}",
    "no header": lambda h, p, s: f".{p}.{s}",
    "dots alone": lambda h, p, s: "..",
    "one part": lambda h, p, s: h,
    "four parts": lambda h, p, s: f"{h}.{p}.{s}.{s}",
    "a dot more": lambda h, p, s: f"{h}.{p}.{s}.",
    "a dot before": lambda h, p, s: f".{h}.{p}.{s}",
    "five parts, as in a JWE": lambda h, p, s: f"{h}.{p}.{s}.{p}.{s}",
    "a JWE without a key": lambda h, p, s: f"{forge.b64({'alg': 'dir', 'enc': 'A256GCM'})}..{p}.{s}.{s}",
    "a shorter signature": lambda h, p, s: f"{h}.{p}.{s[:-4]}",
    "a shorter signature by one character": lambda h, p, s: f"{h}.{p}.{s[:-1]}",
    "half a signature": lambda h, p, s: f"{h}.{p}.{s[:43]}",
    "a longer signature": lambda h, p, s: f"{h}.{p}.{s}AAAA",
    "a signature of zeros": lambda h, p, s: f"{h}.{p}.{'A' * len(s)}",
    "the signature twice": lambda h, p, s: f"{h}.{p}.{s}{s}",
    "the signature of nothing": lambda h, p, s: f"{h}.{p}.{forge.b64(forge.signature(''))}",
    "the payload's signature alone": lambda h, p, s: f"{h}.{p}.{forge.b64(forge.signature(p))}",
    "the parts in another order": lambda h, p, s: f"{p}.{h}.{s}",
    "another payload": lambda h, p, s: f"{h}.{forge.b64(forge.claims(sub='admin'))}.{s}",
    "the last bits of the signature": lambda h, p, s: f"{h}.{p}.{last_bits(s, 1)}",
    "padding": lambda h, p, s: f"{h}.{p}.{s}==",
    "padding everywhere": lambda h, p, s: ".".join(each + "=" * (-len(each) % 4) for each in (h, p, s)),
    "padding at the header": lambda h, p, s: f"{h}=.{p}.{s}",
    "a space before": lambda h, p, s: f"\t{h}.{p}.{s}",
    "a newline at the end": lambda h, p, s: f"{h}.{p}.{s}\n",
    "a space within": lambda h, p, s: f"{h}. {p}.{s}",
    "a newline within": lambda h, p, s: f"{h[:76]}\n{h[76:]}.{p}.{s}",
    "a NUL at the end": lambda h, p, s: f"{h}.{p}.{s}\0",
    "a percent escape": lambda h, p, s: f"{h}%2E{p}.{s}",
    "full-width dots": lambda h, p, s: f"{h}\uff0e{p}\uff0e{s}",
    "a letter of another alphabet": lambda h, p, s: f"{h}.{p}.{s}".replace("e", "\u0435", 1),
    "a lone surrogate": lambda h, p, s: f"{h}.{p}.\ud800{s}",
    "two tokens": lambda h, p, s: f"{h}.{p}.{s}, {h}.{p}.{s}",
    "in quotes": lambda h, p, s: f"'{h}.{p}.{s}'",
    "in angle brackets": lambda h, p, s: f"<{h}.{p}.{s}>",
    "twice a scheme": lambda h, p, s: f"Bearer Bearer {h}.{p}.{s}",
    "flattened JSON": lambda h, p, s: json.dumps({"protected": h, "payload": p, "signature": s}),
    "general JSON": lambda h, p, s: json.dumps(
        {"payload": p, "signatures": [{"protected": h, "signature": s}]}, separators=(",", ":")
    ),
    "JSON with a header of its own": lambda h, p, s: json.dumps(
        {"protected": h, "header": {"alg": "none"}, "payload": p, "signature": s}
    ),
    "JSON for a header": lambda h, p, s: f"{json.dumps(forge.header())}.{p}.{s}",
    "the word null": lambda h, p, s: "null",
    "the word undefined": lambda h, p, s: "undefined",
    "an object's name": lambda h, p, s: "[object Object]",
    "a list": lambda h, p, s: "[]",
}


@pytest.mark.parametrize("mangle", MANGLED.values(), ids=MANGLED.keys())
async def test_mangled(shared_kit: ProjKit, mangle: Mangle) -> None:
    """A valid token with any change is rejected by every transport."""
    header, payload, signature = forge.token().split(".")
    for answer in await entries(shared_kit, mangle(header, payload, signature)):
        refuses(answer)


@pytest.mark.parametrize("kid", [*forge.ALGORITHMS])
async def test_one_spelling(shared_kit: ProjKit, kid: str) -> None:
    """Only one base64 encoding of the same bytes is accepted, in each part and for each algorithm."""
    good = forge.token(kid=kid)
    assert [answer.status for answer in await entries(shared_kit, good)] == [200, 200, 200]
    parts = good.split(".")
    for index, part in enumerate(parts):
        # 2 or 4 bits of the last character are unused, unless the part fills it.
        changes = {0: (), 2: range(1, 16), 3: range(1, 4)}[len(part) % 4]
        spellings = [last_bits(part, change) for change in changes]
        spellings += [part + "=" * count for count in (1, 2, 3, 4)]
        spellings += [each for each in (part.replace("-", "+"), part.replace("_", "/")) if each != part]
        spellings += [f"{part[:5]}{each}{part[5:]}" for each in "\t !=*%"]
        for spelling in spellings:
            sent = ".".join([*parts[:index], spelling, *parts[index + 1 :]])
            for answer in await entries(shared_kit, sent):
                refuses(answer)


async def test_written_otherwise_and_signed(shared_kit: ProjKit) -> None:
    """A signature over another spelling, or over an unencoded payload (RFC 7797), does not make it a token."""
    head, payload = forge.b64(forge.header()), forge.b64(forge.claims(jti="22"))
    plain = json.dumps(forge.claims())
    for first, second in (
        (head + "=" * (-len(head) % 4), payload), (head, payload + "=" * (-len(payload) % 4)), (head, payload + "A"),
        (head, plain), (json.dumps(forge.header()), payload), (head + "\n", payload), (head, ""), ("", payload),
    ):  # fmt: skip
        if (first, second) != (head, payload):
            signed = forge.b64(forge.signature(f"{first}.{second}"))
            for answer in await entries(shared_kit, f"{first}.{second}.{signed}"):
                refuses(answer)


TWICE: Final = (
    ('{"alg":"EdDSA","alg":"EdDSA","typ":"at+jwt","kid":"EdDSA"}', None),
    ('{"alg":"none","typ":"at+jwt","kid":"EdDSA","alg":"EdDSA"}', None),
    (r'{"alg":"EdDSA","typ":"at+jwt","kid":"EdDSA","\u0061lg":"none"}', None),
    (None, '"sub":"admin","sub":"alice"'), (None, '"sub":"alice","sub":"alice"'),
    (None, r'"sub":"alice","\u0073ub":"bob"'),
    (None, '"exp":1,"exp":99999999999'), (None, '"x":{"y":1,"y":1}'), (None, '"":1,"":2'),
)  # fmt: skip


@pytest.mark.parametrize(("head", "members"), TWICE)
async def test_names_that_come_twice(shared_kit: ProjKit, head: str | None, members: str | None) -> None:
    """A duplicate name in header or claims is rejected, even with equal values."""
    payload: Any = forge.claims()
    if members is not None:
        rest = {name: value for name, value in payload.items() if f'"{name}"' not in members}
        payload = json.dumps(rest)[:-1] + "," + members + "}"
    refuses((await entries(shared_kit, forge.token(head, payload)))[0])


HEAVY: Final[dict[str, bytes]] = {
    "a megabyte": b"A" * 1_048_576,
    "a megabyte of dots": b"." * 1_048_576,
    "three large parts": b".".join([b"A" * 349_525] * 3),
    "the longest that is read": forge.token(payload=forge.claims(x="x" * 2_400)).encode()[:-9] + b"A" * 9,
    "brackets": forge.token(payload=b'{"x":' + b"[" * 1_400 + b"]" * 1_400 + b"}").encode(),
    "brackets that stay open": forge.token(payload=b'{"x":' + b"[" * 2_800).encode(),
    "braces": forge.token(payload=b'{"x":' * 500 + b"1" + b"}" * 500).encode(),
    "a header of brackets": forge.token(b'{"alg":' + b"[" * 2_500).encode(),
    "many names": forge.token(payload=json.dumps({f"n{each}": each for each in range(200)})).encode(),
    "a number of many digits": forge.token(payload=b'{"exp":' + b"9" * 2_800 + b"}").encode(),
    "a fraction of many digits": forge.token(payload=b'{"exp":1.' + b"9" * 2_800 + b"}").encode(),
    "an exponent of many digits": forge.token(payload=b'{"exp":1e' + b"9" * 2_800 + b"}").encode(),
    "escapes": forge.token(payload=b'{"sub":"' + rb"\u0041" * 480 + b'"}').encode(),
    "spaces": b" " * 1_048_576,
    "NULs": b"\0" * 65_536,
    "bytes that are no text": b"\xff\xfe\x80" * 21_000,
    "quotes": b'"' * 65_536,
    "schemes": b"Bearer " * 9_000,
}


@pytest.mark.parametrize("sent", HEAVY.values(), ids=HEAVY.keys())
async def test_heavy(shared_kit: ProjKit, sent: bytes) -> None:
    """A token of any size or depth is rejected at once."""
    seconds = []
    for _ in range(5):
        started = time.thread_time()
        answers = await entries(shared_kit, sent)
        seconds.append((time.thread_time() - started) / len(answers))
        for answer in answers:
            refuses(answer)
    assert min(seconds) < BOUND_SECONDS


async def test_the_longest(shared_kit: ProjKit) -> None:
    """A token of up to 4,096 bytes is read; a longer one is rejected, even if it is validly signed."""
    lengths = {}
    for size in range(2_600, 2_800):
        token = forge.token(payload=forge.claims(x="x" * size))
        lengths[len(token)] = token
    read = max(length for length in lengths if length <= 4_096)
    refused = min(length for length in lengths if length > 4_096)
    assert read > 4_090
    assert refused < 4_103
    assert [answer.status for answer in await entries(shared_kit, lengths[read])] == [200] * 3
    for answer in await entries(shared_kit, lengths[refused]):
        refuses(answer)


@pytest.mark.parametrize(
    "value",
    [
        b";" * 1_048_576, b"=" * 1_048_576, b"a=b;" * 262_144, b"auth_token=;" * 87_381, b"auth_token=" * 95_325,
        b"auth_token" * 104_857, b"; auth_token" * 87_381, b" ;\t" * 349_525, b"xauth_token=;" * 80_659,
    ],
    ids=["semicolons", "equals", "pairs", "tokens", "token=token", "names", "empty pairs", "spaces", "others"],
)  # fmt: skip
async def test_heavy_cookie_headers(shared_kit: ProjKit, value: bytes) -> None:
    """A Cookie header of a megabyte costs no more than a bad token."""
    seconds = []
    for _ in range(5):
        started = time.thread_time()
        answer = await ask(shared_kit, "GET", URL, [("cookie", value)])
        seconds.append(time.thread_time() - started)
        assert answer.status == 401
        assert answer.code in {"missing_credentials", "ambiguous_credentials", "invalid_token"}
    assert min(seconds) < BOUND_SECONDS


@pytest.mark.parametrize(
    "value",
    [
        "", "Bearer", "Bearer ", "bearer", "Basic YTpi", "Basic", "Digest x", "Token x", "JWT x", "Bearer:x",
        "Bearer=x", "Bearer\tx", "BearerX", "Negotiate", "Bearer,Bearer", "\xa0Bearer x", "Bearer\xa0x",
        "Bearer realm=\"x\"",
    ],
)  # fmt: skip
async def test_other_schemes(shared_kit: ProjKit, value: str) -> None:
    """A value that is not a bearer token (RFC 6750) is rejected, also next to a valid cookie."""
    good = forge.token()
    for sent in (value, value.replace("x", good)):
        refuses(await ask(shared_kit, "GET", URL, [("authorization", sent)]))
        refuses(await ask(shared_kit, "GET", URL, [("authorization", sent), cookie(auth_token=good)]))


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, bytes]:
    """Generate a valid token of any key, and the token after some edits."""
    kid = draw(st.sampled_from(forge.ALGORITHMS))
    good = forge.token(forge.header(kid), FIXED, kid=kid)
    sent = good.encode()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(sent)))
        until = min(len(sent), at + draw(st.integers(0, 6)))
        new = draw(
            st.sampled_from(BASE64URL).map(str.encode) | st.binary(max_size=4) | st.just(sent[at:until] * 2)
        )
        sent = sent[:at] + new + sent[until:]
    return good, sent


# The same text each time, so that an edit that changes nothing is seen to change nothing.
FIXED: Final = json.dumps(forge.claims(exp=4_000_000_000, iat=1_700_000_000))


@pytest.mark.usefixtures("unmeasured")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations())
async def test_mutations(shared_kit: ProjKit, mutation: tuple[str, bytes]) -> None:
    """Any edit that changes a valid token makes it invalid."""
    good, sent = mutation
    answer = await ask(shared_kit, "GET", URL, [("authorization", b"Bearer " + sent)])
    if sent.strip(b" ") == good.encode():  # spaces around a token do not belong to it
        assert answer.status == 200
    else:
        refuses(answer)


@pytest.mark.usefixtures("unmeasured")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.from_regex(re.compile(rb"[A-Za-z0-9_.=-]{0,80}"), fullmatch=True))
@example(b"a.b.c")
async def test_any_bytes(shared_kit: ProjKit, sent: bytes) -> None:
    """Arbitrary bytes get the same rejection by every transport."""
    refuses(await ask(shared_kit, "GET", URL, [("authorization", b"Bearer " + sent)]))
    refuses(await ask(shared_kit, "GET", URL, [("authorization", sent)]))
    for name in (b"auth_token", b"access_token"):
        refuses(await ask(shared_kit, "GET", URL, [("cookie", name + b"=" + sent.replace(b";", b":"))]))


@pytest.mark.usefixtures("unmeasured")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["alg", "typ", "kid", "jwk", "crit"]) | st.text(max_size=4),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=6)
        | st.sampled_from(["EdDSA", "at+jwt"]),
        max_size=5,
    )
)
async def test_any_header(shared_kit: ProjKit, head: dict[str, Any]) -> None:
    """Any header other than that of the enhanced format is rejected, even with a valid signature."""
    answer = await ask(shared_kit, "GET", URL, [bearer(forge.token(head))])
    if head == forge.header():
        assert answer.status == 200
    else:
        refuses(answer)
