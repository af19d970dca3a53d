"""Content negotiation by ``Accept`` (RFC 9110 §12.5.1)."""

from typing import Final

_NO_SPECIFICITY: Final = -1


def quality(accept: str, media_type: str) -> float:
    """Return the quality of a media type, from 0 to 1; the most specific matching range decides."""
    main_type = media_type.partition("/")[0]
    ranges = {media_type: 2, f"{main_type}/*": 1, "*/*": 0}
    best, weight = _NO_SPECIFICITY, 0.0
    for each in accept.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        specificity = ranges.get(name, _NO_SPECIFICITY)
        if specificity > best:
            best, weight = specificity, _weight(parameters)
    return weight


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
