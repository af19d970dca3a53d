"""Path rules: which scopes the paths of a host require.

A rule applies to a path prefix of whole segments and to everything below it; the longest matching rule applies. Paths
without a rule require an authenticated caller. Frameworks interpret one path in different ways: Litestar collapses
slashes and looks for ``root_path`` anywhere in the path, BlackSheep ignores case, some decode twice. An ambiguous
path is therefore never public, and requires the scopes of all its interpretations.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Final
from urllib.parse import unquote

from starlette.types import Scope

from projkit.errors import ConfigurationError


class Open(Enum):
    """The ways in which a path needs no authenticated caller."""

    PUBLIC = "public"
    SELF_GUARDED = "self-guarded"


# No credential is required; a valid one still sets the user.
PUBLIC: Final = Open.PUBLIC
# Credentials are not read: the app mounted there has guards of its own, as a kit does.
SELF_GUARDED: Final = Open.SELF_GUARDED

# The scopes that a caller must have, all of them; ``()`` for any authenticated caller.
PathRules = Mapping[str, str | Sequence[str] | Open]
Needed = tuple[str, ...] | Open

_AUTHENTICATED: Final = ()
_DECODINGS: Final = 4  # a path that can be decoded more often is ambiguous
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3
_PARAMETERS: Final = re.compile(r";[^/]*")  # RFC 3986 §3.3
_AMBIGUOUS: Final = re.compile(r"//|\\|[\x00-\x1f\x7f]|(?:^|/)\.+(?:/|$)")


class Rules:
    """The rules of a host, and the search for the one that applies.

    Raises:
        ConfigurationError: a rule is invalid.
    """

    def __init__(self, rules: PathRules) -> None:
        checked = {_checked_prefix(prefix): _checked(prefix, wanted) for prefix, wanted in rules.items()}
        if len(checked) < len(rules):
            raise ConfigurationError(
                "Two rules are for the same path, with and without a trailing slash; remove one"
            )
        self._exact: dict[str, Needed] = {"": _AUTHENTICATED, **checked}
        self._folded: dict[str, Needed] = {}
        for prefix, needed in self._exact.items():
            folded = prefix.casefold()
            self._folded[folded] = _both(self._folded.get(folded, needed), needed)
        self._is_folded = self._folded == self._exact
        self._depth = max(prefix.count("/") for prefix in self._exact)
        self._everything = _scopes_of(*self._exact.values())

    def needed(self, scope: Scope) -> Needed:
        """Return the requirement of an ``http`` or ``websocket`` scope, from its ``path`` and never from ``Host``."""
        path = path_of(scope)
        if path is None:
            return self._everything
        is_encoded = b"%2f" in (scope.get("raw_path") or b"").partition(b"?")[0].lower()
        if not is_encoded and "%" not in path and ";" not in path:
            return self._everything if _is_ambiguous(path) else self._find(path)
        readings = _readings(path)
        if any(_is_ambiguous(reading) for reading in readings):
            return self._everything
        return _scopes_of(*(each for reading in readings for each in self._along(reading)))

    def _find(self, path: str) -> Needed:
        exact = self._longest(self._exact, path)
        folded = path.casefold()
        if folded == path and self._is_folded:
            return exact
        return _both(exact, self._longest(self._folded, folded))

    def _longest(self, rules: Mapping[str, Needed], path: str) -> Needed:
        longest = rules[""]
        for longest in _matching(rules, path, self._depth):  # noqa: B007  # the last one is the longest
            pass
        return longest

    def _along(self, path: str) -> list[Needed]:
        """Return the rules of the path and of all its prefixes, for a path whose segments are ambiguous."""
        return [
            *_matching(self._exact, path, self._depth),
            *_matching(self._folded, path.casefold(), self._depth),
        ]


def _matching(rules: Mapping[str, Needed], path: str, depth: int) -> Iterator[Needed]:
    """Yield the rules of the path's prefixes, the longest last; only as many segments are read as rules have."""
    yield rules[""]
    prefix = ""
    for segment in path.split("/", depth + 1)[1 : depth + 1]:
        prefix += f"/{segment}"
        if prefix in rules:
            yield rules[prefix]


def path_of(scope: Scope) -> str | None:
    """Return the path below ``root_path``, or None if frameworks disagree on it.

    Servers either prefix the path with ``root_path``, as the ASGI specification requires, or leave it out.
    """
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "").rstrip("/")
    if not root_path:
        return path
    if path == root_path:
        return "/"
    if path.startswith(root_path + "/"):
        return path[len(root_path) :]
    return None if root_path in path else path


def _is_ambiguous(path: str) -> bool:
    return not path.startswith("/") or _AMBIGUOUS.search(path) is not None


def _readings(path: str) -> set[str]:
    """Return the path as frameworks interpret it that decode it again or drop what follows a semicolon."""
    readings = {path}
    for _ in range(_DECODINGS):
        path = unquote(path)
        readings.add(path)
    if unquote(path) != path:
        readings.add("")  # which is ambiguous
    return readings | {_PARAMETERS.sub("", each) for each in readings}


def _both(one: Needed, other: Needed) -> Needed:
    return one if one == other else _scopes_of(one, other)


def _scopes_of(*needed: Needed) -> tuple[str, ...]:
    return tuple(sorted({scope for each in needed if not isinstance(each, Open) for scope in each}))


def _checked_prefix(prefix: str) -> str:
    if not prefix.startswith("/") or _AMBIGUOUS.search(prefix) or "%" in prefix or ";" in prefix:
        raise ConfigurationError(
            f"The path {prefix!r} in the rules must be plain and start with /, as in /admin"
        )
    return prefix.rstrip("/")


def _checked(prefix: str, wanted: str | Sequence[str] | Open) -> Needed:
    if isinstance(wanted, Open):
        return wanted
    scopes = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    if not all(_SCOPE.fullmatch(scope) for scope in scopes):
        raise ConfigurationError(f"The rule for {prefix} must be scopes, as in ('projects:read',), or PUBLIC")
    return tuple(sorted(scopes))
