"""Migrations, and the steps of which they consist."""
