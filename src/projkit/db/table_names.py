"""Names of the kit's tables in SQL text."""

from dataclasses import dataclass
from typing import Self

from projkit.errors import ConfigurationError
from projkit.settings import SCHEMA_REQUIRES_POSTGRESQL, TableSettings


@dataclass(frozen=True, slots=True)
class TableNames:
    """The prefix of the kit's tables and, if they have one of their own, their schema.

    The settings validate both; the names are quoted as well, because a valid name can be a keyword of SQL.
    """

    prefix: str = "projkit_"
    schema: str = ""

    @classmethod
    def of(cls, settings: TableSettings) -> Self:
        """Return the names by the settings ``TABLE_PREFIX`` and ``DATABASE_SCHEMA``."""
        return cls(settings.table_prefix, settings.database_schema)

    @property
    def version_table(self) -> str:
        """The unqualified name of the table that holds the revision of the schema."""
        return f"{self.prefix}alembic_version"

    def qualified(self, name: str) -> str:
        """Return a table's name, with the schema if there is one, for use in SQL text."""
        return f"{quote(self.schema)}.{quote(name)}" if self.schema else quote(name)

    def require_dialect(self, dialect: str) -> None:
        """Check that the database has schemas if a schema is set.

        Raises:
            ConfigurationError: it has none.
        """
        if self.schema and dialect != "postgresql":
            raise ConfigurationError(SCHEMA_REQUIRES_POSTGRESQL)


def quote(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
