"""`projkit check`: one line per finding, with the fix."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from projkit.auth.keys_file import new_key, write_keys_file
from projkit.cli.demo import DEMO_PASSWORD
from projkit.testing.servers import free_port
from tests.cli.conftest import Run
from tests.cli.running import redis_server
from tests.conftest import SECRET
from tests.db.conftest import run_as_superuser
from tests.services import open_sqlite

TOOLS = (
    "alembic_version",
    "django_migrations",
    "flyway_schema_history",
    "databasechangelog",
    "_prisma_migrations",
)


@pytest.fixture(autouse=True)
def database(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migrated database."""
    monkeypatch.setenv("PROJKIT_DATABASE_URL", sqlite_url)


def findings_of(run: Run, *, expect: int, **variables: str) -> dict[str, dict[str, Any]]:
    """Run check and return its findings by name; ``expect`` is the exit code."""
    variables = {"PROJKIT_SECRET": SECRET, **variables}
    given = {name: value for name, value in variables.items() if value}
    return {each["name"]: each for each in json.loads(run("check", "--json", expect=expect, **given).stdout)}


def failures_of(run: Run, **variables: str) -> dict[str, str]:
    """Run check and return the details of the failures, by name."""
    findings = findings_of(run, expect=1, **variables)
    return {name: each["detail"] for name, each in findings.items() if not each["ok"]}


@pytest.mark.parametrize("usable", [True, False])
def test_metrics_directory(run: Run, tmp_path: Path, usable: bool) -> None:
    """A METRICS_DIRECTORY that is not writable is a failure."""
    path = tmp_path / "metrics"
    if not usable:
        path.write_text("")
    finding = findings_of(run, expect=0 if usable else 1, PROJKIT_METRICS_DIRECTORY=str(path))["metrics"]
    assert finding["ok"] is usable
    assert usable or "PROJKIT_METRICS_DIRECTORY" in finding["detail"]


def test_no_problems(run: Run) -> None:
    """Without problems every line is ok and the exit code is 0."""
    findings = findings_of(run, expect=0)
    assert {name: (each["ok"], each["warning"]) for name, each in findings.items()} == dict.fromkeys(
        ("settings", "secrets", "telemetry", "database", "migrations", "clock", "users"), (True, False)
    )
    assert findings["users"]["detail"] == "0 with a username, 0 disabled"


def test_settings_and_database(run: Run) -> None:
    """check reports a misspelt variable, an invalid setting and an unavailable database, but no password."""
    assert "did you mean PROJKIT_DATABASE_URL" in failures_of(run, PROJKIT_DATABSE_URL="x")["settings"]
    assert "PROJKIT_ENV" in failures_of(run, PROJKIT_ENV="prod")["settings"]
    dead = failures_of(run, PROJKIT_DATABASE_URL="postgresql://u:hidden@127.0.0.1:1/n")["database"]
    assert "PROJKIT_DATABASE_URL" in dead
    assert "hidden" not in dead


def test_secrets(run: Run, tmp_path: Path) -> None:
    """check reports a known secret, an invalid or readable key file, and a development key in production."""
    assert (
        "attackers try first"
        in failures_of(run, PROJKIT_SECRET="REPLACE THIS WITH YOUR JWT SECRET")["settings"]
    )
    keys = tmp_path / "keys.json"
    keys.write_text("{}")
    variables = {"PROJKIT_SECRET": "", "PROJKIT_KEYS_FILE": str(keys)}
    assert "projkit keys new --file" in failures_of(run, **variables)["secrets"]
    keys.unlink()
    write_keys_file(keys, [new_key("EdDSA")], replace=False)
    assert findings_of(run, expect=0, **variables)["secrets"]["detail"].endswith("signing with EdDSA")
    keys.chmod(0o640)
    assert f"chmod 600 {keys}" in failures_of(run, **variables)["secrets"]
    findings_of(run, expect=0, PROJKIT_SECRET="")
    development = tmp_path / "projkit-keys.json"
    development.chmod(0o644)
    assert f"chmod 600 {development}" in failures_of(run, PROJKIT_SECRET="")["secrets"]
    development.chmod(0o600)
    variables = {
        "PROJKIT_SECRET": "",
        "PROJKIT_ENV": "production",
        "PROJKIT_KEYS_FILE": str(development),
    }
    assert "generated for development" in failures_of(run, **variables)["secrets"]


@pytest.mark.parametrize(
    ("options", "store", "warns"),
    [
        ((), "", False),
        (("--maxmemory", "100mb", "--maxmemory-policy", "noeviction"), "", False),
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "", True),
        (("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"), "", True),
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "database", False),
    ],
)
def test_redis(run: Run, tmp_path: Path, options: tuple[str, ...], store: str, warns: bool) -> None:
    """check warns, without failing, if Redis evicts sessions when its memory is full."""
    with redis_server(tmp_path, *options) as url:
        line = findings_of(run, expect=0, PROJKIT_REDIS_URL=url, PROJKIT_SESSION_STORE=store)["redis"]
        assert (line["ok"], line["warning"]) == (True, warns)
        assert ("CONFIG SET maxmemory-policy noeviction" in line["detail"]) == warns
        assert ("stores the sessions" in line["detail"]) == (store == "")
        shown = run("check", PROJKIT_SECRET=SECRET, PROJKIT_REDIS_URL=url).stdout
        assert ("warning redis" in shown) == (len(options) > 0 and options[-1] != "noeviction")


def test_redis_cluster(run: Run, tmp_path: Path) -> None:
    """The masters of a Cluster are checked as well."""
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with redis_server(tmp_path, *cluster, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu") as url:
        with redis.Redis.from_url(url, decode_responses=True) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            deadline = time.monotonic() + 30
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline
                time.sleep(0.05)
        address = url.replace("redis://", "redis+cluster://").removesuffix("/0")
        assert "allkeys-lfu" in findings_of(run, expect=0, PROJKIT_REDIS_URL=address)["redis"]["detail"]
    assert "PROJKIT_REDIS_URL" in failures_of(run, PROJKIT_REDIS_URL=address)["redis"]


def test_redis_without_permission(run: Run, tmp_path: Path) -> None:
    """A Redis user without INFO permission is not a failure; a wrong password is."""
    with redis_server(tmp_path, "--rename-command", "INFO", "", "--requirepass", "secret") as url:
        good = url.replace("//", "//:secret@")
        assert findings_of(run, expect=0, PROJKIT_REDIS_URL=good)["redis"]["ok"]
        said = failures_of(run, PROJKIT_REDIS_URL=url.replace("//", "//:hidden@"))["redis"]
        assert "PROJKIT_REDIS_URL" in said
        assert "hidden" not in said


def test_unavailable_redis(run: Run) -> None:
    """An unavailable Redis is reported with its setting, and the other checks still run."""
    variables = {"PROJKIT_REDIS_URL": "redis://u:hidden@127.0.0.1:1/0"}
    assert list(failures_of(run, **variables)) == ["redis"]
    detail = failures_of(run, **variables)["redis"]
    assert "PROJKIT_REDIS_URL" in detail
    assert "hidden" not in detail


def test_celery(run: Run, tmp_path: Path) -> None:
    """A broker without workers is a warning, an unavailable one a failure that contains no password."""
    with redis_server(tmp_path) as url:
        line = findings_of(run, expect=0, PROJKIT_CELERY_BROKER_URL=url)["celery"]
        assert (line["ok"], line["warning"], "start a worker" in line["detail"]) == (True, True, True)
    said = failures_of(run, PROJKIT_CELERY_BROKER_URL="amqp://u:hidden@127.0.0.1:1//")["celery"]
    assert "PROJKIT_CELERY_BROKER_URL" in said
    assert "hidden" not in said


def test_demo_user_in_production(run: Run) -> None:
    """In production, a demo user with the public password is a failure."""
    variables = {"PROJKIT_SECRET": SECRET, "PROJKIT_ENV": "production"}
    run("user", "add", "demo", stdin=DEMO_PASSWORD, **variables)
    assert findings_of(run, expect=0)["users"]["ok"]
    assert "projkit user disable demo" in failures_of(run, **variables)["users"]
    run("user", "disable", "demo", **variables)
    assert findings_of(run, expect=0, **variables)["users"]["detail"] == "1 with a username, 1 disabled"
    run("user", "enable", "demo", **variables)
    run("user", "password", "demo", stdin="another password", **variables)
    assert findings_of(run, expect=0, **variables)["users"]["ok"]


@pytest.mark.parametrize("place", ["sqlite", "postgresql", "schema"])
def test_other_migration_tools(run: Run, place: str, request: pytest.FixtureRequest) -> None:
    """Tables of other migration tools beside the kit's are a warning that names the tool and what to do."""
    variables = {}
    if place == "sqlite":
        url = os.environ["PROJKIT_DATABASE_URL"]
        with open_sqlite(url) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        fix = "Set PROJKIT_DATABASE_URL to a file of the kit's own"
    else:
        url = variables["PROJKIT_DATABASE_URL"] = request.getfixturevalue("empty_postgres_url")
        schema = "kit" if place == "schema" else ""
        if schema:
            variables["PROJKIT_DATABASE_SCHEMA"] = schema
        run("migrate", **variables)
        tables = [f"CREATE TABLE {schema or 'public'}.{name} (id int)" for name in TOOLS]
        asyncio.run(run_as_superuser(url, *tables))
        fix = "PROJKIT_DATABASE_SCHEMA=kit is not the kit's own" if schema else "Set PROJKIT_DATABASE_SCHEMA"
    finding = findings_of(run, expect=0, **variables)["schema"]
    assert (finding["ok"], finding["warning"]) == (True, True)
    assert fix in finding["detail"]
    assert "projkit.alembic.include_name" in finding["detail"]
    assert place == "sqlite" or all(name in finding["detail"] for name in TOOLS)
    assert len(findings_of(run, expect=0, **variables)) == 8


def test_other_migration_tools_in_another_schema(run: Run, empty_postgres_url: str) -> None:
    """With a schema of the kit's own, the host's tables in another one are no reason for a warning."""
    asyncio.run(run_as_superuser(empty_postgres_url, "CREATE TABLE alembic_version (id int)"))
    variables = {"PROJKIT_DATABASE_URL": empty_postgres_url, "PROJKIT_DATABASE_SCHEMA": "kit"}
    run("migrate", **variables)
    assert "schema" not in findings_of(run, expect=0, **variables)


def test_tables_in_another_schema(run: Run, postgres_url: str) -> None:
    """check and migrate report that the tables are in another schema; migrate --new creates new ones."""
    variables = {"PROJKIT_DATABASE_URL": postgres_url, "PROJKIT_DATABASE_SCHEMA": "kit"}
    assert "the schema public has; move each with" in failures_of(run, **variables)["migrations"]
    assert "projkit migrate --new" in run("migrate", expect=1, **variables).stderr
    run("migrate", "--new", **variables)
    assert findings_of(run, expect=0, **variables)["migrations"]["ok"]


def test_a_schema_requires_postgresql(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema is rejected for SQLite, whether or not a URL is set."""
    variables = {"PROJKIT_DATABASE_SCHEMA": "kit"}
    assert "requires PostgreSQL" in failures_of(run, **variables)["settings"]
    monkeypatch.delenv("PROJKIT_DATABASE_URL")
    assert "requires PostgreSQL" in failures_of(run, **variables)["settings"]
    assert "requires PostgreSQL" in run("migrate", expect=1, PROJKIT_DATABASE_SCHEMA="kit").stderr
