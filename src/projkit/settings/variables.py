"""The environment's ``PROJKIT_`` variables that are no settings."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Final

ENV_PREFIX: Final = "PROJKIT_"
# What Kubernetes injects for a service called projkit, and what tests and load suites use.
_NOT_OURS: Final = re.compile(r"PROJKIT_(SERVICE_.*|PORT(_.*)?|REQUIRE_SERVICES|LOAD_.*|TEST_.*)")


class UnknownSettingWarning(UserWarning):
    """A ``PROJKIT_`` variable that no setting reads: most often a misspelt name."""


def unknown_variables(environ: Mapping[str, str], fields: Iterable[str]) -> list[tuple[str, str | None]]:
    """``PROJKIT_`` variables that no setting reads, each with the nearest name there is."""
    known = [ENV_PREFIX + name.upper() for name in fields]
    found: list[tuple[str, str | None]] = []
    for name in sorted(environ):
        if (
            name.upper().startswith(ENV_PREFIX)
            and name.upper() not in known
            and not _NOT_OURS.fullmatch(name)
        ):
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
            found.append((name, nearest[0] if nearest else None))
    return found
