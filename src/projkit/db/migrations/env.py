"""Alembic's environment; it runs on the connection and in the transaction of :mod:`projkit.db.migrate`.

With ``DATABASE_SCHEMA``, that schema is the whole search path, so that migrations need not name it.
"""

from alembic import context

from projkit.db.tables import build_tables

_names = context.config.attributes["names"]

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=build_tables(_names.prefix).metadata,
    version_table=_names.version_table,
    version_table_schema=_names.schema or None,
)
context.run_migrations()
