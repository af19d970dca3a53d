"""Validation of providers' error codes, which are untrusted input."""

import re
from typing import Final

_ERROR_CODE: Final = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]{1,64}")  # RFC 6749 §4.1.2.1


def error_code(value: object) -> str:
    """Return an OAuth error code if it is safe to log, otherwise a placeholder."""
    return value if isinstance(value, str) and _ERROR_CODE.fullmatch(value) else "(no error code)"
