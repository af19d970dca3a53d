"""Settings, read from ``PROJKIT_*`` variables or given as keyword arguments of :class:`Settings`."""

from projkit.settings.model import Settings
from projkit.settings.values import MINIMUM_SECRET_BYTES, OidcProvider, origin_of
from projkit.settings.variables import UnknownSettingWarning, unknown_variables

__all__ = [
    "MINIMUM_SECRET_BYTES",
    "OidcProvider",
    "Settings",
    "UnknownSettingWarning",
    "origin_of",
    "unknown_variables",
]
