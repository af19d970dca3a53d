"""The template in examples/: its own tests, its migrations next to the kit's, and HTTP through nginx."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from projkit.testing.servers import free_port
from tests.conftest import SECRET
from tests.hosts.conftest import ROOT, command, running
from tests.hosts.nginx import proxied
from tests.services import Postgres, database_url

METRICS_TOKEN = "a token for Prometheus, of 32 characters"
ALICE = {"email": "alice@example.com", "password": "correct horse battery"}
LOGIN = {"username": ALICE["email"], "password": ALICE["password"]}


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A copy of the template, as for a new service."""
    copy = tmp_path / "service"
    shutil.copytree(
        ROOT / "examples" / "fastapi_template", copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    return copy


def run(service: Path, url: str, *arguments: str) -> str:
    """Run a command in the service, on a database; return what it prints."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {
        "PATH": programs,
        "APP_DATABASE_URL": url,
        "PROJKIT_DATABASE_URL": url,
        "PROJKIT_SECRET": SECRET,
    }
    done = subprocess.run(
        arguments,
        cwd=service,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def postgres_database(postgres: Postgres) -> Iterator[str]:
    """The URL of a database with the kit's tables."""
    name = postgres.create(migrated=True)
    yield database_url(name)
    postgres.drop(name)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_its_own_tests(driver: str, service: Path, postgres_database: str) -> None:
    """Its tests pass with the kit on its engine, whatever the driver is."""
    url = postgres_database.replace("postgresql:", f"postgresql+{driver}:")
    assert " passed" in run(service, url, "pytest", "-q", "-p", "no:cacheprovider")


def test_its_migrations(service: Path, postgres_database: str) -> None:
    """Its alembic finds nothing to change in the database of both."""
    url = postgres_database.replace("postgresql:", "postgresql+asyncpg:")
    commands = (["upgrade", "head"], ["check"], ["revision", "--autogenerate", "--rev-id", "0002"])
    script = f"from alembic.config import main\nfor argv in {commands}: main(argv)"
    assert "No new upgrade operations" in run(service, url, sys.executable, "-c", script)
    (generated,) = (service / "migrations" / "versions").glob("0002_*.py")
    assert "op." not in generated.read_text(encoding="utf-8")


def check_service(client: httpx2.Client) -> None:
    """Check users, items and projects with the tokens of both, and the pages and metrics."""
    assert client.post("/api/v1/users", json=ALICE).status_code == 201
    old = client.post("/api/v1/login", json=ALICE).json()["access_token"]
    login = client.post("/kit/api/v1/auth/login", json=LOGIN)
    assert "Path=/app/kit/api/v1/auth;" in login.headers["set-cookie"]
    client.cookies.clear()
    for token in (old, login.json()["access_token"]):
        headers = {"Authorization": f"Bearer {token}"}
        created = client.post("/kit/api/v1/projects", json={"name": "Roof"}, headers=headers)
        project = created.headers["location"].removeprefix("/app")
        assert client.get(project, headers=headers).json() == created.json()
        assert client.get("/api/v1/items", headers=headers).status_code == 200
    for page in ("/docs", "/kit/api/v1/docs", "/kit/api/v1/monitoring"):
        assert client.get(page).headers["content-type"].startswith("text/html")
    for path in ("/api/v1/items", "/kit/api/v1/projects"):
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 400
    scraped = client.get("/kit/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}).text
    assert "\napp_requests_total{" in scraped
    for route in ("/api/v1/items", "/app/kit/api/v1/projects/{project_id}"):
        assert f'projkit_http_server_request_duration_seconds_count{{method="GET",route="{route}"' in scraped


def test_behind_nginx(service: Path) -> None:
    """With uvicorn behind an nginx that strips a prefix, users, tokens, cookies, pages and metrics of both work."""
    url = f"sqlite+aiosqlite:///{service}/app.db"
    run(service, url, "alembic", "upgrade", "head")
    run(service, url, "projkit", "migrate")
    port = free_port()
    with proxied(f"http://127.0.0.1:{port}", prefix="/app", strip=True) as nginx:
        variables = {
            "APP_DATABASE_URL": url,
            "APP_SECRET": "another secret, of 32 or more bytes",
            "PROJKIT_ENV": "production",
            "PROJKIT_PUBLIC_URL": f"{nginx.url}/app/kit",
            "PROJKIT_TRUSTED_PROXIES": "127.0.0.1",
            "PROJKIT_METRICS_TOKEN": METRICS_TOKEN,
        }
        serve = command("uvicorn", "app.main:app", port, "")
        with running(serve, port, service, "/metrics", variables) as served, nginx.client("/app") as client:
            check_service(client)
            assert served.stop() in {0, -15}
            assert served.log == ""
