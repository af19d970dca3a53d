"""Alembic's environment; it runs on the connection and in the transaction of :mod:`projkit.db.migrate`."""

from alembic import context

from projkit.db.tables import build_tables

_prefix = context.config.attributes["table_prefix"]

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=build_tables(_prefix).metadata,
    version_table=f"{_prefix}alembic_version",
)
context.run_migrations()
