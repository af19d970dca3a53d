"""The settings that name the kit's tables, which also a host's migrations need."""

from typing import Any, Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from projkit.errors import ConfigurationError
from projkit.settings.values import DatabaseSchema
from projkit.settings.variables import ENV_PREFIX

SCHEMA_REQUIRES_POSTGRESQL: Final = (
    "PROJKIT_DATABASE_SCHEMA requires PostgreSQL, because SQLite has no schemas; unset it, or set "
    "PROJKIT_DATABASE_URL to postgresql://user:password@host:5432/name"
)


class TableSettings(BaseSettings):
    """The settings ``TABLE_PREFIX`` and ``DATABASE_SCHEMA``, without all others.

    Raises:
        ConfigurationError: a value is invalid; the message names the setting and the fix.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    table_prefix: str = Field(default="projkit_", pattern=r"^[a-z_][a-z0-9_]{0,29}$")
    database_schema: DatabaseSchema = ""

    def __init__(self, **values: Any) -> None:  # converts pydantic's errors
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ")
        name = ".".join(str(part) for part in problem["loc"][:1])
        lines.append(f"{ENV_PREFIX}{name.upper()}: {message}" if name else message)
    return "; ".join(lines)
