"""Database URLs in the form that drivers accept."""

from urllib.parse import unquote

import sqlalchemy as sa


def sqlite_url(url: str) -> sa.URL:
    """Return the URL of an SQLite file for SQLAlchemy, which before 2.1 does not decode the file's name."""
    scheme, _, rest = url.partition("://")
    path, _, query = rest.partition("?")
    return sa.make_url(f"{scheme}://?{query}").set(database=unquote(path.removeprefix("/")))
