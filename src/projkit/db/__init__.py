"""The database port, its drivers, tables and migrations."""
