"""Database URLs, as drivers read them."""


def asyncpg_dsn(url: str) -> str:
    """The URL as asyncpg reads it by itself, with ``sslmode`` and all else that libpq knows."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)
