"""Conditional requests (RFC 9110 §13): entity tags and preconditions.

The tags that the kit issues are the version of a row. What a proxy does to them when it compresses the response (nginx
and Cloudflare weaken a tag, Apache and Caddy append a suffix to it) leaves the version intact, so it is not compared.
"""

import re
from typing import Final

from projkit.errors import FieldError, PreconditionFailedError, ValidationFailedError
from projkit.http.request import Request

# One member of a list of entity tags (RFC 9110 §8.8.3), after empty ones, which are ignored (§5.6.1.2).
_MEMBER: Final = re.compile(r'[ \t,]*(?:W/)?"(?P<tag>[\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|$)')
# A version, with the suffix of a proxy that has encoded the content: "7-gzip", "7--gzip", "7;br".
_ISSUED: Final = re.compile(
    r"(?P<version>[1-9][0-9]{0,18})(?:[-;:+]{1,2}(?:gzip|x-gzip|br|zstd|deflate|df))?"
)


class Precondition:
    """A parsed ``If-Match`` or ``If-None-Match``: ``*``, or entity tags and the versions that they stand for.

    Weak and strong tags are the same: a version identifies the content of a project, however it is encoded. RFC 9110
    §13.1.1 lets no weak tag match in ``If-Match``, because weak tags of other servers do not identify the content.
    """

    __slots__ = ("_any", "_tags", "_versions")

    def __init__(self, tags: frozenset[str], *, any_: bool = False) -> None:
        self._any = any_
        self._tags = tags
        issued = filter(None, map(_ISSUED.fullmatch, tags))
        self._versions = frozenset(int(match["version"]) for match in issued)

    def matches_tag(self, etag: str) -> bool:
        """Compare weakly, as ``If-None-Match`` requires (RFC 9110 §8.8.3.2), with a tag that is not a version."""
        return self._any or etag.removeprefix("W/").strip('"') in self._tags

    def matches(self, version: int) -> bool:
        """Return whether the precondition names this version, or any."""
        return self._any or version in self._versions

    def require(self, version: int) -> None:
        """Check the precondition as ``If-Match``.

        Raises:
            PreconditionFailedError: it names other versions, or no tag that the kit can have issued.
        """
        if not self.matches(version):
            raise PreconditionFailedError(None if self._versions else _FOREIGN)

    def require_other(self, version: int) -> None:
        """Check the precondition as ``If-None-Match``.

        Raises:
            PreconditionFailedError: it names this version, or any.
        """
        if self.matches(version):
            raise PreconditionFailedError("The project exists in a version that If-None-Match excludes.")


_FOREIGN: Final = (
    "No entity tag in If-Match was issued for a project: send the ETag of an earlier response, without changes. "
    "A proxy or cache may have replaced it."
)


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
    value = (request.header(name.lower().encode()) or "").strip(" \t")
    if value == "*":
        return Precondition(frozenset(), any_=True)
    value = value.rstrip(" \t,")
    tags: list[str] = []
    position = 0
    while position < len(value):
        match = _MEMBER.match(value, position)
        if match is None:
            break
        tags.append(match["tag"])
        position = match.end()
    if position < len(value) or not tags:
        error = FieldError(
            "invalid_etag", f'{name} must be * or a list of entity tags, as in "7"', parameter=name
        )
        raise ValidationFailedError([error], title="The request's headers have errors")
    return Precondition(frozenset(tags))
