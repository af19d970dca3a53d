"""Settings: invalid values are reported with the setting and the fix."""

from pathlib import Path

import pytest

from projkit import Settings
from projkit.errors import ConfigurationError
from projkit.settings import UnknownSettingWarning, unknown_variables
from tests.conftest import SECRET


def test_defaults_are_the_embedded_database() -> None:
    """Without any variable the kit uses SQLite in the working directory."""
    settings = Settings()
    assert (settings.dialect, settings.embedded, settings.sqlite_path) == ("sqlite", True, Path("projkit.db"))
    assert settings.api_prefix == "/api/v1"


@pytest.mark.parametrize(
    ("url", "dialect"),
    [
        ("postgresql://u:p@h/n", "postgresql"), ("postgres://h/n", "postgresql"),
        ("postgresql+asyncpg://h/n", "postgresql"), ("postgresql+psycopg://h/n", "postgresql"),
        ("sqlite:///x.db", "sqlite"), ("sqlite:////tmp/x.db", "sqlite"), ("sqlite+aiosqlite:///x.db", "sqlite"),
    ],
)  # fmt: skip
def test_database_urls(url: str, dialect: str) -> None:
    """URLs are accepted with and without a driver."""
    assert Settings(database_url=url).dialect == dialect


def test_sqlite_paths() -> None:
    """Three slashes denote a relative path, four an absolute one."""
    assert Settings(database_url="sqlite:///a/x.db").sqlite_path == Path("a/x.db")
    assert Settings(database_url="sqlite:////a/x.db").sqlite_path == Path("/a/x.db")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", "mysql://h/n", "must start with postgresql://"),
        ("DATABASE_URL", "projkit.db", "must start with postgresql://"),
        ("DATABASE_URL", "sqlite://", "SQLite requires a file"),
        ("DATABASE_URL", "sqlite:///:memory:", "SQLite requires a file"),
        ("SECRET", "short", "at least 32 bytes; generate one with: python3"),
        ("API_PREFIX", "api", "must start with /"),
        ("API_PREFIX", "/api/", "must start with /"),
        ("MAX_BODY_BYTES", "1", "greater than or equal to 1024"),
        ("MAX_BODY_BYTES", "many", "valid integer"),
        ("REQUEST_TIMEOUT_SECONDS", "0", "greater than 0"),
        ("ENV", "prod", "'development' or 'production'"),
        ("TABLE_PREFIX", "x; DROP", "pattern"),
        ("PUBLIC_URL", "https://example.com/kit?x=1", "must have no query or fragment"),
        ("PUBLIC_URL", "https://example.com/a//b", "no empty segment"),
        ("PUBLIC_URL", "https://example.com/%2e%2e/kit", "no empty segment, . or .."),
        ("PUBLIC_URL", "https://example.com/a;b", "no semicolon"),
        ("PUBLIC_URL", "https://example.com/a\\b", "no backslash or encoded slash"),
        ("PUBLIC_URL", "https://example.com/a%2Fb", "no backslash or encoded slash"),
        ("PUBLIC_URL", "https://example.com/a%5cb", "no backslash or encoded slash"),
        ("PUBLIC_URL", "https://example.com/a b", "no space or control character"),
        ("PUBLIC_URL", "https://example.com/a\nb", "no space or control character"),
        ("PUBLIC_URL", "https://example.com/a%0Ab", "no space or control character"),
        ("PUBLIC_URL", "https://example.com/%FF", "two digits of UTF-8"),
        ("PUBLIC_URL", "https://example.com/50%", "two digits of UTF-8"),
        ("ROOT_PATH", "kit", "must start with /"),
        ("ROOT_PATH", "/a;b", "must start with /"),
        ("ROOT_PATH", "/a%2Fb", "must start with /"),
        ("KEEP_ALIVE_SECONDS", "0", "greater than or equal to 1"),
        ("PUT_MODE", "patch", "'replace' or 'merge'"),
    ],
)
def test_invalid_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """An invalid value is reported with its variable, and is not repeated."""
    monkeypatch.setenv(f"PROJKIT_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert caught.value.detail.startswith(f"PROJKIT_{name}: ")
    assert said in caught.value.detail
    assert value not in caught.value.detail.replace("python3", "") or len(value) <= 10


@pytest.mark.parametrize("url", ["https://example.com", "https://example.com/other"])
def test_contradicting_prefixes(url: str) -> None:
    """ROOT_PATH and the path of PUBLIC_URL must be the same; the error gives the URL that would be."""
    with pytest.raises(ConfigurationError, match=r"set PROJKIT_PUBLIC_URL=https://example\.com/kit, or omit"):
        Settings(root_path="/kit", public_url=url)
    assert Settings(root_path="/kit/", public_url="https://example.com/kit").public_path == "/kit"
    assert Settings(root_path="/kit").public_path == "/kit"
    assert Settings(root_path="/").public_path is None
    assert Settings(public_url="https://example.com/").public_path == ""
    assert Settings(public_url="https://example.com/@team/caf%C3%A9/50%25").public_path == "/@team/café/50%"


def test_production_requires_a_secret() -> None:
    """Production does not start without a key."""
    with pytest.raises(ConfigurationError, match=r"SECRET must be set in production.*generate one with"):
        Settings(env="production")
    assert Settings(env="production", secret=SECRET).env == "production"


def test_one_source_of_keys(tmp_path: Path) -> None:
    """SECRET and KEYS_FILE are mutually exclusive."""
    with pytest.raises(ConfigurationError, match="both set"):
        Settings(secret=SECRET, keys_file=tmp_path / "keys.json")


def test_the_secret_is_not_shown() -> None:
    """Neither repr nor str of the settings contains the secret."""
    assert SECRET not in repr(Settings(secret=SECRET)) + str(Settings(secret=SECRET))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://a,https://b ", ("https://a", "https://b")),
        ('["https://a","https://b"]', ("https://a", "https://b")),
        ("", ()),
    ],
)
def test_lists(monkeypatch: pytest.MonkeyPatch, value: str, expected: tuple[str, ...]) -> None:
    """Lists are JSON or comma-separated."""
    monkeypatch.setenv("PROJKIT_ALLOWED_ORIGINS", value)
    assert Settings().allowed_origins == expected


def test_invalid_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is invalid JSON is reported with its variable."""
    monkeypatch.setenv("PROJKIT_ALLOWED_ORIGINS", '["https://a"')
    with pytest.raises(ConfigurationError, match="PROJKIT_ALLOWED_ORIGINS: "):
        Settings()


def test_unknown_variables_warn_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown variable causes a warning with the closest name; Kubernetes' variables are ignored."""
    monkeypatch.setenv("PROJKIT_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PROJKIT_PORT_80_TCP", "tcp://10.0.0.1:80")
    Settings()
    monkeypatch.setenv("PROJKIT_DATABSE_URL", "x")
    with pytest.warns(UnknownSettingWarning, match="PROJKIT_DATABSE_URL; did you mean PROJKIT_DATABASE_URL?"):
        Settings()
    assert unknown_variables({"PROJKIT_QQQQQQQQQ": "1"}, Settings.model_fields) == [
        ("PROJKIT_QQQQQQQQQ", None)
    ]


def test_unknown_keyword_arguments_are_rejected() -> None:
    """An unknown keyword argument is an error that names it."""
    with pytest.raises(ConfigurationError, match="PROJKIT_DATABSE_URL"):
        Settings(databse_url="x")
