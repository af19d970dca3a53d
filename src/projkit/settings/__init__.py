"""Settings, read from ``PROJKIT_*`` variables or given as keyword arguments of :class:`Settings`."""

from projkit.settings.model import Settings
from projkit.settings.postgresql_url import PostgresqlUrl, parse_postgresql_url
from projkit.settings.tables import SCHEMA_REQUIRES_POSTGRESQL, TableSettings
from projkit.settings.values import MINIMUM_SECRET_BYTES, UNIX_SOCKETS, OidcProvider, origin_of
from projkit.settings.variables import (
    ENV_PREFIX,
    UnknownSettingWarning,
    describe_unknown_variables,
    unknown_variables,
)

__all__ = [
    "ENV_PREFIX",
    "MINIMUM_SECRET_BYTES",
    "SCHEMA_REQUIRES_POSTGRESQL",
    "UNIX_SOCKETS",
    "OidcProvider",
    "PostgresqlUrl",
    "Settings",
    "TableSettings",
    "UnknownSettingWarning",
    "describe_unknown_variables",
    "origin_of",
    "parse_postgresql_url",
    "unknown_variables",
]
