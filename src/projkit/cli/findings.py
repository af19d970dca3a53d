"""The results of ``projkit check``."""

from typing import NamedTuple


class Finding(NamedTuple):
    """The result of one check, printed as a line. A ``warning`` is a success that needs attention."""

    name: str
    ok: bool
    detail: str
    warning: bool = False
