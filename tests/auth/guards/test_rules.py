"""Path rules: the longest prefix of whole segments decides, and no spelling of a path evades it."""

from time import perf_counter
from typing import Any

import pytest

from projkit.auth.rules import PUBLIC, SELF_GUARDED, Needed, PathRules, Rules
from projkit.errors import ConfigurationError
from tests.asgi import http_scope

RULES: PathRules = {
    "/public": PUBLIC,
    "/public/admin": ("admin",),
    "/reports": ("reports:read",),
    "/reports/write": ("reports:read", "reports:write"),
    "/reports/open/": PUBLIC,
    "/anyone": (),
    "/kit": SELF_GUARDED,
    "/one": "one:scope",
}
EVERYTHING = ("admin", "one:scope", "reports:read", "reports:write")


def needed(path: str, rules: PathRules = RULES, **scope: Any) -> Needed:
    """Return the scopes that a path requires."""
    return Rules(rules).needed(http_scope(path, **scope))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", ()), ("/elsewhere", ()), ("/publications", ()), ("/publi", ()), ("/anyone/x", ()),
        ("/public", PUBLIC), ("/public/", PUBLIC), ("/public/a/b.css", PUBLIC), ("/public/.well-known", PUBLIC),
        ("/public/a..b", PUBLIC), ("/public/ä", PUBLIC),
        ("/public/admin", ("admin",)), ("/public/admin/x/", ("admin",)), ("/public/administer", PUBLIC),
        ("/reports", ("reports:read",)), ("/reports/2026", ("reports:read",)),
        ("/reports/write/x", ("reports:read", "reports:write")),
        ("/reports/open", PUBLIC), ("/reports/open/x", PUBLIC),
        ("/kit", SELF_GUARDED), ("/kit/api/v1/auth/login", SELF_GUARDED), ("/kit2", ()), ("/one", ("one:scope",)),
    ],
)  # fmt: skip
def test_the_longest_prefix_decides(path: str, expected: Needed) -> None:
    """A rule applies to its path and below it, by whole segments, unless a longer rule matches."""
    assert needed(path) == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [({}, ()), ({"/": PUBLIC}, PUBLIC), ({"/": ("a",)}, ("a",)), ({"/": SELF_GUARDED}, SELF_GUARDED)],
)
def test_the_root(rules: PathRules, expected: Needed) -> None:
    """Without a rule, every path requires an authenticated caller; a rule for / changes that."""
    assert [needed(path, rules) for path in ("/", "/a", "/a/b/")] == [expected] * 3


TRICKS = [
    "//public", "/public//x", "/public//", "/./public", "/public/.", "/public/./x", "/public/../admin", "/public/..",
    "/public/...", "/../public", "/public\\x", "/public\\..\\admin", "\\public", "public", "", "*", "/public/\x00",
    "/public\n", "/public/\r\nx", "/public/x\x7f", "http://testserver/public", "/public/%2e%2e/x", "/public/%2E/x",
    "/public/%252e%252e/x", "/public/%5cx", "/public/%2fadmin", "/public/x%00", "/public/..;/x", "/public/.;a=b/x",
    "/public/;/x", "/public/%25252525252e",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS)
def test_paths_that_can_be_read_in_two_ways(path: str) -> None:
    """A path with ambiguous dots, slashes or encodings requires the scopes of every rule."""
    assert needed(path) == EVERYTHING
    assert needed(path, {"/": PUBLIC}) == ()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/public/50% off", ()), ("/public/a;b.pdf", ()), ("/reports/50%25", ("reports:read",)),
        ("/public;x/admin", ("admin",)), ("/public/%61dmin", ("admin",)), ("/public/%2561dmin", ("admin",)),
        ("/public/admin;x", ("admin",)), ("/%6bit", ()), ("/%70ublic", ()), ("/reports/%6fpen", ("reports:read",)),
    ],
)  # fmt: skip
def test_paths_that_some_hosts_decode_again(path: str, expected: Needed) -> None:
    """A path with a percent sign or a semicolon is never public and requires the scopes of all its readings."""
    assert needed(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/PUBLIC", ()), ("/Public/x", ()), ("/KIT/x", ()), ("/public/Admin", ("admin",)),
        ("/Public/Admin", ("admin",)),
        ("/REPORTS/2026", ("reports:read",)), ("/Reports/open", ()), ("/reports/OPEN", ("reports:read",)),
    ],
)  # fmt: skip
def test_letters_of_another_case(path: str, expected: Needed) -> None:
    """Required scopes apply in any letter case, since some hosts route so; public paths match exactly."""
    assert needed(path) == expected


def test_rules_that_differ_in_case_alone() -> None:
    """If a host could read a path as that of two rules, both apply."""
    rules: PathRules = {"/a": PUBLIC, "/A": ("x",), "/b": ("x",), "/B": ("y",)}
    assert [needed(path, rules) for path in ("/a", "/A", "/b", "/B")] == [
        ("x",),
        ("x",),
        ("x", "y"),
        ("x", "y"),
    ]


@pytest.mark.parametrize(
    ("root_path", "path", "expected"),
    [
        ("/proxy", "/proxy/public/x", PUBLIC), ("/proxy", "/public/x", PUBLIC), ("/proxy/", "/proxy/public", PUBLIC),
        ("/proxy", "/proxy/reports", ("reports:read",)), ("/proxy", "/reports", ("reports:read",)),
        ("/proxy", "/proxy", ()), ("/proxy", "/proxy/", ()), ("/a/b", "/a/b/public", PUBLIC),
        # Where root_path stands elsewhere in the path, hosts disagree: Litestar reads the first as /reports.
        ("/proxy", "/public/proxy/reports", EVERYTHING), ("/proxy", "/proxyreports", EVERYTHING),
        ("/proxy", "/proxy/public/proxy/x", PUBLIC), ("/proxy", "/proxy//reports", EVERYTHING),
        ("/public", "/public/reports", ("reports:read",)), ("/public", "/public/public", PUBLIC),
        ("/public", "/public/elsewhere", ()),
    ],
)  # fmt: skip
def test_below_a_root_path(root_path: str, path: str, expected: Needed) -> None:
    """Rules are relative to where the app is mounted, whether or not the server left the mount in the path."""
    assert needed(path, root_path=root_path) == expected


@pytest.mark.parametrize("raw_path", [b"/reports%2Fopen", b"/reports%2fopen?x", b"/public%2Fx"])
def test_encoded_slashes(raw_path: bytes) -> None:
    """A slash that came encoded divides the path for some hosts only, so the path is not open."""
    path = raw_path.partition(b"?")[0].decode().lower().replace("%2f", "/")
    assert needed(path) is PUBLIC
    assert needed(path, raw_path=raw_path) == (("reports:read",) if "reports" in path else ())
    assert needed(path, raw_path=None) is PUBLIC


def test_a_long_path_is_read_no_further_than_rules_are_deep() -> None:
    """Paths of 32,768 segments take no time to speak of: 200 of them far less than one second each 20."""
    rules = Rules(RULES)
    scope = http_scope("/a" * 32_768)
    started = perf_counter()
    assert {rules.needed(scope) for _ in range(200)} == {()}
    assert perf_counter() - started < 10


@pytest.mark.parametrize(
    "rules",
    [
        {"public": PUBLIC}, {"": PUBLIC}, {"//a": ()}, {"/a/../b": ()}, {"/a%20b": ()}, {"/a\\b": ()}, {"/a;b": ()},
        {"/a": "two scopes"}, {"/a": (), "/a/": PUBLIC}, {"/a": ("",)}, {"/a": ('quo"te',)}, {"/a": ("line\nbreak",)},
    ],
)  # fmt: skip
def test_rules_that_are_none(rules: PathRules) -> None:
    """A rule that could never match, or whose scope is invalid in a header, is rejected at once."""
    with pytest.raises(ConfigurationError, match="rule"):
        Rules(rules)
