"""Conditional requests (RFC 9110 §13): entity tags and preconditions."""

import re
from typing import Final

from projkit.errors import FieldError, ValidationFailedError
from projkit.http.request import Request

# One member of a list of entity tags (RFC 9110 §8.8.3).
_MEMBER: Final = re.compile(r'\s*(?P<weak>W/)?"(?P<tag>[\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')


class Precondition:
    """A parsed ``If-Match`` or ``If-None-Match``: ``*``, or entity tags with their weakness."""

    __slots__ = ("_any", "_strong", "_weak")

    def __init__(self, *, any_: bool, strong: frozenset[str], weak: frozenset[str]) -> None:
        self._any = any_
        self._strong = strong
        self._weak = weak

    def matches_strongly(self, etag: str) -> bool:
        """Compare strongly, as ``If-Match`` requires: weak tags never match (RFC 9110 §8.8.3.2)."""
        return self._any or etag in self._strong

    def matches_weakly(self, etag: str) -> bool:
        """Compare weakly, as ``If-None-Match`` requires (RFC 9110 §8.8.3.2)."""
        return self._any or etag in self._strong or etag in self._weak


def etag_of(version: int) -> str:
    """Return the entity tag of a version; tags are only compared within one resource."""
    return f'"{version}"'


def if_match(request: Request) -> Precondition | None:
    """Return the parsed ``If-Match`` header, or None.

    Raises:
        ValidationFailedError: the header is malformed.
    """
    return _parse(request, "If-Match") if b"if-match" in request.headers else None


def if_none_match(request: Request) -> Precondition | None:
    """Return the parsed ``If-None-Match`` header, or None.

    Raises:
        ValidationFailedError: the header is malformed.
    """
    return _parse(request, "If-None-Match") if b"if-none-match" in request.headers else None


def _parse(request: Request, name: str) -> Precondition:
    value = (request.header(name.lower().encode()) or "").strip()
    if value == "*":
        return Precondition(any_=True, strong=frozenset(), weak=frozenset())
    strong: set[str] = set()
    weak: set[str] = set()
    position = 0
    while position < len(value):
        match = _MEMBER.match(value, position)
        if match is None:
            break
        (weak if match["weak"] else strong).add(f'"{match["tag"]}"')
        position = match.end()
    if position < len(value) or not (strong or weak):
        error = FieldError(
            "invalid_etag", f'{name} must be * or a list of entity tags, as in "7"', parameter=name
        )
        raise ValidationFailedError([error], title="The request's headers have errors")
    return Precondition(any_=False, strong=frozenset(strong), weak=frozenset(weak))
