"""URLs of PostgreSQL as providers give them: each parameter is accepted, translated, or rejected with the fix."""

import pytest

from projkit import Settings
from projkit.errors import ConfigurationError
from projkit.settings import parse_postgresql_url
from projkit.telemetry.otel.attributes import database_attributes

PASSWORD = "pa55word"
BASE = f"postgresql://user:{PASSWORD}@db.example.com/name"


def rejection_of(url: str, **settings: object) -> str:
    """Return the message with which a URL is rejected, and check that it does not contain the password."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(database_url=url, **settings)
    assert caught.value.detail.startswith("PROJKIT_DATABASE_URL")
    assert PASSWORD not in caught.value.detail
    return caught.value.detail


# As their consoles show them.
PROVIDERS = {
    "Heroku": "postgres://u:p@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1",
    "Neon": "postgresql://u:p@ep-a-1-pooler.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=prefer",
    "Neon without SNI": "postgresql://u:p@ep-a-1.aws.neon.tech/neondb?sslmode=require&options=endpoint%3Dep-a-1",
    "Supabase": "postgresql://postgres.abc:p@aws-0-eu.pooler.supabase.com:5432/postgres?sslmode=require&supa=base-pooler.x",
    "DigitalOcean": "postgresql://doadmin:p@db-1.b.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
    "CockroachDB": "postgresql://u:p@a-1.cockroachlabs.cloud:26257/defaultdb?sslmode=verify-full&sslrootcert=system",
    "Azure": "postgresql://u%40srv:p@srv.postgres.database.azure.com:5432/postgres?sslmode=require&gssencmode=disable",
    "Patroni": "postgresql://u:p@h1:5432,h2:5432,h3:5432/db?target_session_attrs=primary&load_balance_hosts=disable",
    "a socket": "postgresql:///db?host=/var/run/postgresql&application_name=web",
    "Django": "postgresql://u:p@h/db?connect_timeout=5&keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3",
}  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
def test_urls_of_providers(provider: str) -> None:
    """The URLs that providers give are accepted."""
    assert Settings(database_url=PROVIDERS[provider]).dialect == "postgresql"


@pytest.mark.parametrize(
    ("location", "hosts"),
    [
        ("h1:5432,h2:5433/db", ["h1:5432", "h2:5433"]),
        ("h1,h2/db", ["h1:5432", "h2:5432"]),
        ("[::1]:6000,[fe80::2]/db", ["[::1]:6000", "[fe80::2]:5432"]),
        ("%2Frun%2Fpg/db", ["/run/pg"]),
        ("/db?host=/run/pg", ["/run/pg"]),
        ("/db?host=h1,h2&port=6000", ["h1:6000", "h2:6000"]),
        ("/db?host=h1,h2&port=6000,6001", ["h1:6000", "h2:6001"]),
        ("/db", []),
    ],
)
def test_hosts(location: str, hosts: list[str]) -> None:
    """Hosts have names, addresses or directories, each with a port or the default one, in either form."""
    url = parse_postgresql_url(f"postgresql://u%40x:p%2Fw@{location}")
    assert [str(host) for host in url.hosts] == hosts
    assert (url.user, url.password, url.database) == ("u@x", "p/w", "db")
    assert url.location == f"db at {','.join(hosts) or 'the default host'}"


def test_kind_of_server() -> None:
    """Of several hosts, the kit uses one that accepts writes, and one that does not cannot be demanded."""
    several = "postgresql://h1,h2/db"
    assert parse_postgresql_url(several).target == "read-write"
    assert parse_postgresql_url("postgresql://h1/db").target is None
    assert parse_postgresql_url(f"{several}?target_session_attrs=primary").target == "primary"
    for target in ("standby", "read-only", "prefer-standby"):
        said = rejection_of(f"{several}?target_session_attrs={target}")
        assert (
            f"target_session_attrs={target} selects servers that reject writes; set it to read-write" in said
        )


def test_parameters_that_are_settings() -> None:
    """Parameters for which the kit has a setting are its default, and a setting that is set has precedence."""
    url = f"{BASE}?connect_timeout=10&connection_limit=7&pool_timeout=4&pgbouncer=true"
    settings = Settings(database_url=url)
    assert settings.database_connect_seconds == 10
    assert settings.database_pool_size == 7
    assert settings.database_pool_wait_seconds == 4
    assert settings.database_mode == "transactional"
    assert Settings(database_url=url, database_pool_size=3).database_pool_size == 3
    assert Settings(database_url=f"{BASE}?pgbouncer=false").database_mode == "fast"
    assert "unset it, or set it to transactional" in rejection_of(url, database_mode="fast")


def test_settings_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds if the URL and the settings are environment variables."""
    monkeypatch.setenv("PROJKIT_DATABASE_URL", f"{BASE}?connect_timeout=10&connection_limit=7")
    monkeypatch.setenv("PROJKIT_DATABASE_POOL_SIZE", "3")
    assert (Settings().database_connect_seconds, Settings().database_pool_size) == (10, 3)


def test_schema_of_prisma() -> None:
    """The parameter schema is accepted if the kit uses that schema anyway, and otherwise names the setting."""
    assert Settings(database_url=f"{BASE}?schema=public").database_schema == ""
    assert Settings(database_url=f"{BASE}?schema=app", database_schema="app").database_schema == "app"
    for settings in ({}, {"database_schema": "kit"}):
        assert "differs from PROJKIT_DATABASE_SCHEMA" in rejection_of(f"{BASE}?schema=app", **settings)


@pytest.mark.parametrize(
    ("parameter", "fix"),
    [
        ("channel_binding=require", "set sslmode=verify-full"),
        ("client_encoding=latin1", "the kit uses UTF-8"),
        ("connect_timeout=0", "every wait has a limit"),
        ("connect_timeout=soon", "set PROJKIT_DATABASE_CONNECT_SECONDS instead"),
        ("connection_limit=0", "set PROJKIT_DATABASE_POOL_SIZE instead"),
        ("gssencmode=require", "set sslmode=require"),
        ("hostaddr=10.0.0.1", "in the place of the host"),
        ("keepalives_idle=often", "keepalives_idle must be a whole number"),
        ("lock_timeout=5", "set PROJKIT_DATABASE_STATEMENT_SECONDS instead"),
        ("pgbouncer=yes", "pgbouncer must be one of true, false"),
        ("prepareThreshold=0", "set PROJKIT_DATABASE_MODE=transactional"),
        ("require_auth=scram-sha-256", "pg_hba.conf"),
        ("ssl=true", "set sslmode=require or sslmode=verify-full"),
        ("sslmod=require", "did you mean sslmode?"),
        ("sslmode=on", "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("statement_cache_size=0", "set PROJKIT_DATABASE_MODE=transactional"),
        ("target_session_attrs=master", "target_session_attrs must be one of any, primary"),
        ("work_mem=8MB", "options=-c%20work_mem%3D8MB"),
    ],
)
def test_rejected_parameters(parameter: str, fix: str) -> None:
    """A parameter that the kit cannot honour is rejected by its name, with the fix."""
    said = rejection_of(f"{BASE}?{parameter}")
    assert parameter.partition("=")[0] in said
    assert fix in said


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{PASSWORD}/x@host/name",
        f"postgresql://user:{PASSWORD}?x@host/name",
        f"postgresql://user:5432?{PASSWORD}@host/name",
        f"postgresql://user:p@host:{PASSWORD}/name",
        f"postgresql://user:{PASSWORD}@host:0/name",
        f"postgresql://user:{PASSWORD}@h1,:5432/name",
        f"postgresql://user:{PASSWORD}@/name?host=h1,h2,h3&port=1,2",
    ],
)
def test_malformed_urls(url: str) -> None:
    """A URL that cannot be parsed is rejected without showing what may be a part of its password."""
    assert any(word in rejection_of(url) for word in ("encode @", "a host is empty", "parameter port"))


def test_telemetry_of_several_hosts() -> None:
    """Spans name the database, and one host but not several."""
    assert database_attributes("postgresql", "postgresql://u:p@h1:1,h2:2/db") == {
        "db.system.name": "postgresql",
        "db.namespace": "db",
    }
    assert database_attributes("postgresql", "postgresql://u:p@h1:1/db")["server.address"] == "h1"
