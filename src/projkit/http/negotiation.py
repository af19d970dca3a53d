"""Choosing among media types by ``Accept`` (RFC 9110 §12.5.1)."""

from typing import Final

_NO_SPECIFICITY: Final = -1


def quality(accept: str, media_type: str) -> float:
    """How much a client wants a media type, from 0 to 1; the most specific of the ranges that it names decides."""
    wanted = media_type.partition("/")[0]
    ranges = {media_type: 2, f"{wanted}/*": 1, "*/*": 0}
    best, found = _NO_SPECIFICITY, 0.0
    for each in accept.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        specificity = ranges.get(name, _NO_SPECIFICITY)
        if specificity > best:
            best, found = specificity, _weight(parameters)
    return found


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
