"""Claims of validly signed tokens: each has a type and a range, and only exact values match."""

import json
import time
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projkit import ProjKit
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, refuses

pytestmark = pytest.mark.anyio

FUTURE: Final = 4_000_000_000  # the year 2096
HOUR: Final = 3600
ABSENT: Final = ...


async def whoami(kit: ProjKit, **changes: Any) -> Answer:
    """Return the response to a token with changed claims."""
    return await ask(
        kit, "GET", "/api/v1/auth/session", [bearer(forge.token(payload=forge.claims(**changes)))]
    )


NOT_TEXT: Final[tuple[Any, ...]] = (
    None,
    0,
    1,
    -1,
    1.5,
    True,
    False,
    [],
    {},
    ["x"],
    [1],
    {"x": 1},
    [[]],
    [None],
)
NOT_A_NAME: Final[tuple[Any, ...]] = (*NOT_TEXT, "", "x" * 256, "\ud800", "a\ud800b", "\0", "a\0")
NOT_A_TIME: Final[tuple[Any, ...]] = (
    None, True, False, "", "1", str(FUTURE), " ", "NaN", [], {}, [FUTURE], {"x": FUTURE}, 1.5, float(FUTURE),
    FUTURE + 0.5, 1e10, 1e300, -1, -FUTURE, 253_402_300_800, 2**53, 2**63 - 1, 2**63, 2**64, 10**400,
)  # fmt: skip


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"])
async def test_absent(shared_kit: ProjKit, name: str) -> None:
    """Each claim of RFC 9068 §2.2 is required, under its exact name."""
    refuses(await whoami(shared_kit, **{name: ABSENT}))
    present = forge.claims()[name]
    for other in (name.upper(), f" {name}", f"{name} ", f"x_{name}"):
        refuses(await whoami(shared_kit, **{name: ABSENT, other: present}))


@pytest.mark.parametrize("name", ["iss", "sub", "jti", "client_id"])
@pytest.mark.parametrize("value", NOT_A_NAME, ids=lambda value: repr(value)[:20])
async def test_names(shared_kit: ProjKit, name: str, value: Any) -> None:
    """A claim that is a name is a string of 1 to 255 characters, without U+0000 and lone surrogates."""
    refuses(await whoami(shared_kit, **{name: value}))


@pytest.mark.parametrize("value", NOT_A_NAME, ids=lambda value: repr(value)[:20])
async def test_session_ids(shared_kit: ProjKit, value: Any) -> None:
    """An invalid or unknown session id is rejected."""
    refuses(await whoami(shared_kit, sid=value))
    refuses(await whoami(shared_kit, sid="nobody's"))


@pytest.mark.parametrize("value", [*NOT_TEXT[1:], "\ud800", "\0"], ids=lambda value: repr(value)[:20])
async def test_scopes(shared_kit: ProjKit, value: Any) -> None:
    """Scopes are one string (RFC 9068 §2.2.3); any other type is rejected."""
    refuses(await whoami(shared_kit, scope=value))


@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        ("", []), (ABSENT, []), ("admin ", ["admin"]), ("projects:read,admin", []), ("Admin", []), ("admin*", []),
        ("*", []), ("projects:*", []), ("projects:read\u00a0admin", ["admin", "projects:read"]), ("unheard:of", []),
        ("projects:read projects:read", ["projects:read"]),
    ],
)  # fmt: skip
async def test_known_scopes(shared_kit: ProjKit, scope: Any, granted: list[str]) -> None:
    """Only known scopes are granted, by their exact names."""
    assert (await whoami(shared_kit, scope=scope)).json()["scopes"] == granted


@pytest.mark.parametrize("value", [*NOT_TEXT[:2], 2, 1.0, 1.5, True, "1", "2", [], {}, [1]], ids=repr)
async def test_versions(shared_kit: ProjKit, value: Any) -> None:
    """A token of another version of the format is rejected."""
    refuses(await whoami(shared_kit, ver=value))


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", NOT_A_TIME, ids=lambda value: repr(value)[:20])
async def test_times(shared_kit: ProjKit, name: str, value: Any) -> None:
    """A time is a whole number of seconds between 1970 and the year 9999."""
    refuses(await whoami(shared_kit, **{name: value}))


@pytest.mark.parametrize("name", ["exp", "iat", "nbf", "sub", "x"])
@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "-Infinity", "1e999", "0x7fffffff", "1_000", "01", "+1", "1."]
)
async def test_numbers_that_json_does_not_know(shared_kit: ProjKit, name: str, literal: str) -> None:
    """A number in a notation that JSON does not have makes the whole token unreadable."""
    payload = json.dumps(forge.claims(**{name: "here"})).replace('"here"', literal)
    token = forge.token(payload=payload)
    refuses(await ask(shared_kit, "GET", "/api/v1/auth/session", [bearer(token)]))


@pytest.mark.parametrize(
    ("name", "seconds", "good"),
    [
        ("exp", -10, True), ("exp", -45, False), ("exp", -HOUR, False), ("iat", 15, True), ("iat", 90, False),
        ("iat", -10 * HOUR, True), ("nbf", 15, True), ("nbf", 90, False), ("nbf", -HOUR, True),
    ],
)  # fmt: skip
async def test_leeway(shared_kit: ProjKit, name: str, seconds: int, good: bool) -> None:
    """Clocks may differ by half a minute, and no more."""
    assert (await whoami(shared_kit, **{name: int(time.time()) + seconds})).status == (200 if good else 401)


@pytest.mark.parametrize(
    ("name", "first", "last"), [("exp", False, True), ("iat", True, False), ("nbf", True, False)]
)
async def test_ends_of_time(shared_kit: ProjKit, name: str, first: bool, last: bool) -> None:
    """The first second of 1970 and the last one of the year 9999 are times like all others."""
    for value, good in ((0, first), (253_402_300_799, last)):
        assert (await whoami(shared_kit, **{name: value})).status == (200 if good else 401)


OTHERS: Final = (
    "projki", "projkit2", "xprojkit", "projkit ", " projkit", "Projkit", "PROJKIT", "projkit\n", "projkit/", "p",
    "projkit.example.com", "https://projkit", "\uff50rojkit", "projkit\u200b", "projkit,other", ".*", "*",
    "projkit other",
)  # fmt: skip


@pytest.mark.parametrize("value", [*OTHERS, ["projkit"], ["projkit", "other"], {"projkit": 1}], ids=repr)
async def test_issuers(shared_kit: ProjKit, value: Any) -> None:
    """The issuer must match exactly: no substring, superstring or list is accepted."""
    refuses(await whoami(shared_kit, iss=value))


@pytest.mark.parametrize(
    "value",
    [
        *OTHERS, *([each] for each in OTHERS), [*OTHERS], [["projkit"]], ["other", ["projkit"]], ["projkit", 1],
        ["projkit", None], [{"projkit": 1}], {"projkit": "projkit"}, *NOT_TEXT[:9], [], [""], "",
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
async def test_audiences(shared_kit: ProjKit, value: Any) -> None:
    """The audience must be ours or a list of strings that contains ours; substrings and superstrings do not
    match.
    """
    refuses(await whoami(shared_kit, aud=value))


@pytest.mark.parametrize("value", ["projkit", ["projkit"], ["other", "projkit"], ["projkit"] * 3], ids=repr)
async def test_our_audience(shared_kit: ProjKit, value: Any) -> None:
    """A list of audiences is accepted if one of them is ours."""
    assert (await whoami(shared_kit, aud=value)).status == 200


@pytest.mark.parametrize(
    "subject",
    [
        "x" * 255,
        "é" * 255,
        "\U0001f511" * 100,
        "a b",
        " ",
        "\n",
        "\u202e",
        "' OR 1=1 --",
        "../admin",
        "0",
        "null",
    ],
)
async def test_subjects(shared_kit: ProjKit, subject: str) -> None:
    """A subject is opaque: any string of a valid length is preserved exactly."""
    answer = await whoami(shared_kit, sub=subject)
    assert (answer.status, answer.json()["subject"]) == (200, subject)


VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.usefixtures("unmeasured")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["iss", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope", "ver", "sid"]), VALUES
)
async def test_any_value(shared_kit: ProjKit, name: str, value: Any) -> None:
    """For any value of any claim, a token is accepted as alice's or rejected as usual."""
    answer = await whoami(shared_kit, **{name: value})
    if answer.status == 200:
        assert answer.json()["subject"] == "alice"
        assert set(answer.json()["scopes"]) <= {"projects:read", "projects:write"}
    else:
        refuses(answer)


@pytest.mark.usefixtures("unmeasured")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=4))
async def test_any_claims(shared_kit: ProjKit, payload: dict[str, Any]) -> None:
    """Forged claims are rejected, even with a valid signature."""
    token = forge.token(payload=json.dumps(payload))
    refuses(await ask(shared_kit, "GET", "/api/v1/auth/session", [bearer(token)]))
