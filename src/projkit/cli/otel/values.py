"""The values of environment variables, each with what is wrong with another one and the mend."""

import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from projkit.errors import ConfigurationError

_MOST: Final = 2**31 - 1
_LONGEST_SHOWN: Final = 60
# A name, and a value of printable ASCII without delimiters: as the exporter takes them, W3C Baggage §3.3 and the space.
HEADER: Final = re.compile(r"[!#-'*+.\-0-9A-Z^-z|~]+[ \t]*=[ !#-+\--:<-\[\]-~]*")
ATTRIBUTE: Final = re.compile(r"[^=]+=.*", re.DOTALL)


def wrong(name: str, what: str, mend: str) -> ConfigurationError:
    """The error of a variable that cannot be used."""
    return ConfigurationError(f"{name} {what}; set it to {mend}")


class Environment:
    """Variables; one that is empty is not set.

    Every method gives the value, or the default where there is none, and raises ConfigurationError for a wrong one.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def of_signal(self, signal: str, rest: str) -> tuple[str, str]:
        """Which of an exporter's two variables counts, the signal's own or the common one, and its value."""
        own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{rest}", f"OTEL_EXPORTER_OTLP_{rest}"
        return (own, self._text(own)) if self._text(own) else (common, self._text(common))

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """One of these, in any case of letters."""
        value = self._text(name).lower() or default
        if value != default and value not in choices:
            raise wrong(name, f"is {_shown(value)}", " or ".join((", ".join(choices[:-1]), choices[-1])))
        return value

    def number(self, name: str, default: float, *, least: float, most: float, unit: str = "") -> float:
        """A number within bounds."""
        value = self._text(name)
        if not value:
            return default
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not least <= found <= most:
            what = f"a number{unit and f' of {unit}'} from {least:g} to {most:g}"
            raise wrong(name, f"is {_shown(value)}", what)
        return found

    def whole(self, name: str, default: int, *, least: int, most: int = _MOST) -> int:
        """A whole number within bounds."""
        value = self._text(name)
        if not value:
            return default
        if not re.fullmatch("[0-9]{1,10}", value) or not least <= int(value) <= most:
            raise wrong(name, f"is {_shown(value)}", f"a whole number from {least} to {most}")
        return int(value)

    def pairs(self, name: str, pair: re.Pattern[str], example: str) -> None:
        """Names with values, separated by commas; what they are is never shown."""
        for part in self._text(name).split(","):
            if part.strip() and not pair.fullmatch(part.strip()):
                mend = f"names and values, as in {example} (write other characters as %2C)"
                raise wrong(name, "has a part that is no pair of name and value", mend)

    def file(self, name: str) -> None:
        """The path of a file that can be read."""
        value = self._environ.get(name, "")
        try:
            if value:
                Path(value).open("rb").close()
        except OSError as error:
            mend = "the path of a file in PEM format"
            raise wrong(name, f"names {value}, which cannot be read ({error.strerror})", mend) from error

    def installed(self, name: str, group: str, default: str) -> None:
        """Names of what packages bring under ``group``, separated by commas, or ``none``."""
        for each in filter(None, map(str.strip, self._text(name).split(","))):
            if each.lower() != "none" and not entry_points(group=group, name=each):
                mend = f"{default}, or install its package"
                raise wrong(name, f"names {_shown(each)}, which is not installed", mend)

    def _text(self, name: str) -> str:
        return self._environ.get(name, "").strip()


def _shown(value: str) -> str:
    return repr(value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}…")
