"""Filters for a host's alembic, which would otherwise drop the kit's tables.

Autogenerate drops every table that the metadata of the application does not contain. In ``env.py``::

    from projkit.alembic import include_name, include_object

    context.configure(..., include_name=include_name, include_object=include_object)

Both read ``PROJKIT_TABLE_PREFIX`` and ``PROJKIT_DATABASE_SCHEMA`` from the environment. A host that passes its settings
in code, or uses several kits, creates a :class:`KitTables` for each. Filters are combined with ``and``.
"""

import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from projkit.db.tables import build_tables
from projkit.settings import ENV_PREFIX, TableSettings

_VARIABLES: Final = frozenset(f"{ENV_PREFIX}{name.upper()}" for name in TableSettings.model_fields)


class KitTables:
    """The filters for the tables of one kit.

    The kit owns every table whose name begins with ``TABLE_PREFIX``, in any schema, and all that belongs to such a
    table. In ``DATABASE_SCHEMA`` nothing else is dropped either.

    Args:
        settings: the settings of the kit, or only those of its tables: ``TableSettings(table_prefix="kit_")``; by
            default those in the environment.

    Raises:
        ConfigurationError: a setting is invalid.
    """

    def __init__(self, settings: TableSettings | None = None) -> None:
        settings = settings or TableSettings()
        self._prefix = settings.table_prefix
        self._schema = settings.database_schema
        self._known = frozenset(table.name for table in build_tables(self._prefix).metadata.tables.values())

    def include_name(self, name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
        """Return False for what belongs to the kit, as alembic's ``include_name``: it is not even read."""
        return type_ == "schema" or not self._owns(parent_names.get("table_name") or name)

    def include_object(
        self, item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any
    ) -> bool:
        """Return False for what belongs to the kit, as alembic's ``include_object``.

        A table of the application's own whose name begins with the kit's prefix is left out as well, with a warning.
        """
        table = item if type_ == "table" else getattr(item, "table", None)
        table_name = name if table is None else table.name
        if self._owns(table_name):
            if table is item and not reflected and table_name not in self._known:
                warnings.warn(
                    f"the table {table_name} is left out of the migration, because its name begins with projkit's "
                    f"table prefix {self._prefix}; rename it, or set PROJKIT_TABLE_PREFIX",
                    stacklevel=2,
                )
            return False
        schema = getattr(item if table is None else table, "schema", None)
        only_in_database = reflected and compare_to is None
        return not (only_in_database and self._schema and schema == self._schema)

    def _owns(self, table_name: str | None) -> bool:
        return table_name is not None and table_name.startswith(self._prefix)


def include_name(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """Return False for what belongs to the kit of the environment: see :meth:`KitTables.include_name`."""
    return _of_environment().include_name(name, type_, parent_names)


def include_object(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Return False for what belongs to the kit of the environment: see :meth:`KitTables.include_object`."""
    return _of_environment().include_object(item, name, type_, reflected, compare_to)


def _of_environment() -> KitTables:
    # Alembic asks thousands of times; env.py may set the variables after its imports.
    return _create(frozenset(item for item in os.environ.items() if item[0].upper() in _VARIABLES))


@lru_cache(maxsize=8)
def _create(_: frozenset[tuple[str, str]]) -> KitTables:
    return KitTables()
