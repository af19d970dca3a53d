"""A service with users, items, migrations, metrics and tests of its own."""
