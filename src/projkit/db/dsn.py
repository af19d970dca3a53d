"""Database URLs in the form that drivers accept."""


def asyncpg_dsn(url: str) -> str:
    """Return the URL in asyncpg's own form, which includes ``sslmode`` and the other parameters of libpq."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)
