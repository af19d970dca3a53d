"""A Django project that django-admin has just created works with the kit, by the lines of docs/django.md alone."""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest

from tests.hosts.conftest import Served, free_port
from tests.hosts.django_project import Project, create_project
from tests.services import Postgres, database_url

PASSWORD = "correct horse battery"
LOGIN = {"username": "alice", "password": PASSWORD}
WITHOUT_DAPHNE = """from mysite.settings import *

INSTALLED_APPS = INSTALLED_APPS[1:]
"""
# How a project may keep its connections to PostgreSQL.
CONNECTIONS: dict[str, dict[str, Any]] = {
    "closed after each request": {},
    "kept, views in transactions": {"CONN_MAX_AGE": 60, "ATOMIC_REQUESTS": True},
    "kept and checked": {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
    "pooled": {"CONN_HEALTH_CHECKS": True, "OPTIONS": {"pool": {"min_size": 1, "timeout": 10}}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with its tables and the user alice."""
    created = create_project(tmp_path_factory.mktemp("project") / "site")
    created.write("mysite/settings_wsgi.py", WITHOUT_DAPHNE)
    created.manage("migrate", "--verbosity=0")
    created.add_user("alice", PASSWORD)
    return created


# A database that does not respond: the tests must not need it.
SCHEMA: Final = {"PROJKIT_DATABASE_URL": "postgresql://127.0.0.1:1/none", "PROJKIT_DATABASE_SCHEMA": "kit"}


@pytest.mark.parametrize(
    ("flags", "variables"),
    [((), {}), (("--parallel=2",), {}), (("--parallel=2",), SCHEMA)],
    ids=["one process", "parallel", "schema"],
)
def test_the_tests_of_the_project_pass(
    project: Project, flags: tuple[str, ...], variables: dict[str, str]
) -> None:
    """``manage.py test`` runs the page's tests and more, in parallel too, and leaves the project's databases alone."""
    tests = Path(__file__).with_name("django_project_tests.py").read_text(encoding="utf-8")
    (project.directory / "mysite" / "test_more.py").write_text(tests, encoding="utf-8")
    before = (project.directory / "db.sqlite3").read_bytes()
    printed = project.using(**variables).manage("test", *flags)
    assert "\nOK\n" in printed, printed
    assert "Warning" not in printed, printed
    assert (project.directory / "db.sqlite3").read_bytes() == before
    assert not (project.directory / "projkit.db").exists()


def test_migrations_and_checks(project: Project) -> None:
    """Django's checks find nothing to complain about, and its migrations nothing to create for the kit."""
    assert "no issues" in project.manage("check")
    assert "No changes detected" in project.manage("makemigrations", "--check", "--dry-run")


def log_in(client: httpx2.Client, prefix: str = "/kit") -> httpx2.Response:
    """Log alice in to the kit."""
    return client.post(f"{prefix}/api/v1/auth/login", json=LOGIN)


def send_form(client: httpx2.Client, path: str, **fields: str) -> None:
    """Send a form of Django's admin, which redirects if it succeeds."""
    client.get("/admin/login/")
    sent = client.post(path, data={**fields, "csrfmiddlewaretoken": client.cookies["csrftoken"]})
    assert sent.status_code in {200, 302}, sent.text


def check_pages(served: Served) -> None:
    """Check the guarded pages with a token, without one, with a forged one, and with two."""
    with served.client("carol") as carol:
        assert carol.get("/").json() == {"caller": "carol"}
        assert carol.get("/whoami").json() == {"subject": "carol"}
        assert carol.get("/latest").json() == {"names": []}
        with ThreadPoolExecutor(8) as pool:
            assert {each.status_code for each in pool.map(carol.get, ["/latest", "/whoami"] * 20)} == {200}
        token = carol.headers["Authorization"]
    with httpx2.Client(base_url=served.url, timeout=30) as client:
        assert client.get("/").json() == {"caller": ""}
        for headers, code in (
            ([], "missing_credentials"),
            ([("Authorization", "Bearer x")], "invalid_token"),
            ([("Authorization", token), ("Authorization", token)], "ambiguous_credentials"),
            ([("Cookie", "auth_token=x; auth_token=y")], "ambiguous_credentials"),
        ):
            for path in ("/whoami", "/latest"):
                refused = client.get(path, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (401, code), refused.text
                assert refused.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in served.log, served.log


@pytest.mark.parametrize("server", ["runserver", "gunicorn"])
def test_wsgi(project: Project, server: str) -> None:
    """Over WSGI, with threads or forked workers, middleware and guards work; the kit's endpoints are Django's 404."""
    with project.serve(server, DJANGO_SETTINGS_MODULE="mysite.settings_wsgi") as served:
        check_pages(served)
        assert httpx2.get(f"{served.url}/kit/api/v1/health", timeout=30).status_code == 404
        assert "lifespan" not in served.log


@pytest.mark.parametrize("server", ["runserver", "daphne", "uvicorn"])
def test_asgi(project: Project, server: str) -> None:
    """Over ASGI, which is what ``runserver`` uses with daphne, the kit's endpoints work too, and so do static files."""
    with project.serve(server) as served:
        check_pages(served)
        with httpx2.Client(base_url=served.url, timeout=30) as client:
            assert client.get("/kit/api/v1/health/ready").status_code == 200
            assert (
                client.get("/kit/api/v1/projects/a/b/c").headers["content-type"] == "application/problem+json"
            )
            token = log_in(client).json()["access_token"]
            client.cookies.clear()
            headers = {"Authorization": f"Bearer {token}"}
            subject = client.get("/kit/api/v1/auth/session", headers=headers).json()["subject"]
            assert client.get("/whoami", headers=headers).json() == {"subject": subject}
            if server.startswith("runserver"):
                assert client.get("/static/admin/css/base.css").status_code == 200


def test_autoreload(project: Project) -> None:
    """``runserver`` restarts the project and the kit with it when a file changes."""
    with project.serve("runserver with autoreload") as served, httpx2.Client(base_url=served.url) as client:
        assert client.get("/added").status_code == 404
        project.write("mysite/urls.py", '\nurlpatterns.append(path("added", home))\n')
        deadline = time.monotonic() + 60
        status = 0
        while status != 200:
            assert time.monotonic() < deadline, served.log
            with suppress(httpx2.TransportError):  # while it restarts
                status = client.get("/added", timeout=20).status_code
            time.sleep(0.5)
            if status == 404:  # a change before the first look of the reloader goes unnoticed
                (project.directory / "mysite" / "urls.py").touch()
        assert client.get("/kit/api/v1/health/ready").status_code == 200
        assert "Traceback" not in served.log, served.log


def test_a_session_of_django(project: Project) -> None:
    """A login to Django is one to the kit: without a CSRF token, but not for pages of other sites, until the logout."""
    session, projects = "/kit/api/v1/auth/session", "/kit/api/v1/projects"
    with project.serve("uvicorn") as served, httpx2.Client(base_url=served.url, timeout=30) as browser:
        assert browser.get(session).status_code == 401
        send_form(browser, "/admin/login/", **LOGIN, next="/")
        caller = browser.get(session).json()
        assert caller["scopes"] == ["admin", "monitoring:read", "projects:read", "projects:write"]
        assert browser.get("/whoami").json() == {"subject": caller["subject"]}
        for site, status in (("same-origin", 201), ("cross-site", 403), (None, 403)):
            headers = {} if site is None else {"Sec-Fetch-Site": site}
            created = browser.post(projects, json={"name": "Roof"}, headers=headers)
            assert created.status_code == status, created.text
        assert browser.get("/latest").json() == {"names": ["Roof"]}

        with served.client("carol") as carol:  # a token that is present decides
            carol.cookies = browser.cookies
            assert carol.get(session).json()["subject"] == "carol"
        twice = f"sessionid=x; sessionid={browser.cookies['sessionid']}"
        refused = httpx2.get(served.url + session, headers={"Cookie": twice}, timeout=30)
        assert refused.json()["code"] == "ambiguous_credentials"

        old = dict(browser.cookies)
        send_form(browser, "/admin/logout/")
        for cookies in (dict(browser.cookies), old):
            with httpx2.Client(base_url=served.url, cookies=cookies, timeout=30) as late:
                assert late.get(session).status_code == 401
                assert late.get("/whoami").status_code == 401


@pytest.fixture(scope="module")
def on_postgresql(project: Project, postgres: Postgres) -> Iterator[str]:
    """Return the URL of a PostgreSQL database with the tables of Django and of the kit, and alice."""
    name = postgres.create(migrated=True)
    url = database_url(name)
    parts = urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": parts.hostname,
        "PORT": parts.port,
        "USER": parts.username,
        "PASSWORD": parts.password or "",
    }
    code = f"""import json, os
from mysite.settings import *

DATABASES = {{"default": {{**{database}, **json.loads(os.environ.get("CONNECTIONS", "{{}}"))}}}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
"""
    project.write("mysite/settings_postgresql.py", code)
    on_postgresql = project.using(
        DJANGO_SETTINGS_MODULE="mysite.settings_postgresql", PROJKIT_DATABASE_URL=url
    )
    on_postgresql.manage("migrate", "--verbosity=0")
    on_postgresql.add_user("alice", PASSWORD)
    yield url
    postgres.drop(name)


def end_connections(url: str) -> int:
    """End all connections to a database and return how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return len(ended.fetchall())


@pytest.mark.parametrize("connections", CONNECTIONS)
def test_a_lost_database_connection(connections: str, project: Project, on_postgresql: str) -> None:
    """Logins and sessions go on after PostgreSQL has ended all connections: five of five, however they are kept."""
    variables = {
        "DJANGO_SETTINGS_MODULE": "mysite.settings_postgresql",
        "CONNECTIONS": json.dumps(CONNECTIONS[connections]),
    }
    ended = 0
    with (
        project.serve("uvicorn", **variables) as served,
        httpx2.Client(base_url=served.url, timeout=30) as client,
        httpx2.Client(base_url=served.url, timeout=30) as browser,
    ):
        send_form(browser, "/admin/login/", **LOGIN, next="/")
        for _ in range(5):
            assert log_in(client).status_code == 200, served.log
            assert browser.get("/kit/api/v1/auth/session").status_code == 200, served.log
            ended += end_connections(on_postgresql)
            assert log_in(client).status_code == 200, served.log
            ended += end_connections(on_postgresql)
            assert browser.get("/kit/api/v1/auth/session").status_code == 200, served.log
    assert (ended > 0) == (connections != "closed after each request")


def test_a_database_that_is_down(project: Project, on_postgresql: str) -> None:
    """While Django's database does not respond, logins and sessions get 503, and Django's pages an anonymous caller."""
    variables = {
        "DJANGO_SETTINGS_MODULE": "mysite.settings_postgresql",
        "CONNECTIONS": json.dumps({"PORT": free_port()}),
    }
    with (
        project.serve("uvicorn", **variables) as served,
        httpx2.Client(base_url=served.url, timeout=30, cookies={"sessionid": "x" * 32}) as client,
    ):
        assert log_in(client).status_code == 503
        assert client.get("/kit/api/v1/auth/session").status_code == 503
        assert client.get("/").json() == {"caller": ""}
        assert client.get("/whoami").status_code == 503


def test_a_shared_database(project: Project, on_postgresql: str) -> None:
    """In a database for both, Django's commands leave the kit's tables and rows alone."""
    shared = project.using(
        DJANGO_SETTINGS_MODULE="mysite.settings_postgresql", PROJKIT_DATABASE_URL=on_postgresql
    )
    script = """
from io import StringIO
from django.core.management import call_command
from mysite.kit import kit
from projkit import Principal
from projkit.hosts.django import run_sync

carol = Principal("carol")
run_sync(kit.projects.create, carol, name="Roof")
call_command("makemigrations", check_changes=True, dry_run=True)
call_command("sqlflush", stdout=(sql := StringIO()))
assert "auth_user" in sql.getvalue() and "projkit_" not in sql.getvalue()
call_command("flush", interactive=False)
call_command("migrate", "auth", "zero", verbosity=0)
assert len(run_sync(kit.projects.list, carol).items) == 1
call_command("migrate", verbosity=0)
print("as it should be")
"""
    assert "as it should be" in shared.manage("shell", "-c", script)
    shared.run(str(Path(sys.executable).with_name("projkit")), "migrate", "--check")
