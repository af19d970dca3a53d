"""Values of environment variables, with errors that name the variable, the problem and the fix."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from projkit.errors import ConfigurationError

_MAX_INTEGER: Final = 2**31 - 1
_MAX_SHOWN: Final = 60
# A name, and a value of printable ASCII without delimiters, as the exporter accepts them: W3C Baggage §3.3, and spaces.
_HEADER: Final = re.compile(r"[!#-'*+.\-0-9A-Z^-z|~]+[ \t]*=[ !#-+\--:<-\[\]-~]*")


def invalid(name: str, problem: str, fix: str) -> ConfigurationError:
    """Create the error of a variable that cannot be used."""
    return ConfigurationError(f"{name} {problem}; set it to {fix}")


class EnvironmentReader:
    """A reader of environment variables; an empty one counts as unset.

    Every method returns the value, or the default if the variable is unset.

    Raises:
        ConfigurationError: a value is invalid.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str:
        """Read any text; the default is ""."""
        return self._environ.get(name, "").strip()

    def for_signal(self, signal: str, name: str) -> tuple[str, str]:
        """Return which variable of an exporter applies, the signal's own or the common one, and its value."""
        own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"
        return (own, self.text(own)) if self.text(own) else (common, self.text(common))

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """Read one of the choices, case-insensitively."""
        value = self.text(name).lower() or default
        if value != default and value not in choices:
            raise invalid(name, f"is {_shown(value)}", " or ".join((", ".join(choices[:-1]), choices[-1])))
        return value

    def number(self, name: str, default: float, *, least: float, most: float, unit: str = "") -> float:
        """Read a number within bounds."""
        value = self.text(name)
        try:
            number = float(value or default)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            fix = f"a number{unit and f' of {unit}'} from {least:g} to {most:g}"
            raise invalid(name, f"is {_shown(value)}", fix)
        return number

    def integer(self, name: str, default: int, *, least: int, most: int = _MAX_INTEGER) -> int:
        """Read an integer within bounds."""
        value = self.text(name)
        if not value:
            return default
        if not re.fullmatch("[0-9]{1,10}", value) or not least <= int(value) <= most:
            raise invalid(name, f"is {_shown(value)}", f"a whole number from {least} to {most}")
        return int(value)

    def check_headers(self, name: str) -> None:
        """Check comma-separated headers; their content is never shown, since it may be secret."""
        for header in self.text(name).split(","):
            if header.strip() and not _HEADER.fullmatch(header.strip()):
                fix = "name=value pairs, as in api-key=…,other=… (percent-encode other characters: %2C is a comma)"
                raise invalid(name, "contains a part that is not a name=value pair", fix)


def _shown(value: str) -> str:
    return repr(value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…")
