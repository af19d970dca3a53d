"""Detection of ``PROJKIT_`` variables that are not settings."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

ENV_PREFIX: Final = "PROJKIT_"
# Variables that Kubernetes injects for a service called projkit, and those of the tests and load tests.
_IGNORED: Final = re.compile(r"PROJKIT_(SERVICE_.*|PORT(_.*)?|REQUIRE_SERVICES|LOAD_.*|TEST_.*)")


class UnknownSettingWarning(UserWarning):
    """A warning about a ``PROJKIT_`` variable that is not a setting, usually because of a misspelling."""


def unknown_variables(environ: Mapping[str, str], fields: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return the ``PROJKIT_`` variables that are not settings, each with the closest matching setting, if any."""
    known = [ENV_PREFIX + name.upper() for name in fields]
    unknown: list[tuple[str, str | None]] = []
    for name in sorted(environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known and not _IGNORED.fullmatch(name):
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
            unknown.append((name, nearest[0] if nearest else None))
    return unknown


def describe_unknown_variables(environ: Mapping[str, str], fields: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each ``PROJKIT_`` variable that is not a setting."""
    for name, nearest in unknown_variables(environ, fields):
        yield f"unknown setting {name}" + (f"; did you mean {nearest}?" if nearest else "")
