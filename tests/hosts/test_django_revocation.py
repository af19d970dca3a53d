"""Django users lose access at once when Django deactivates them, by the examples of docs/mounting.md."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conftest import SECRET
from tests.hosts.conftest import ROOT, Served, started

AUTH = "/kit/api/v1/auth"
PASSWORD = "correct horse battery staple"
APP = "tests.hosts.revoking_django"


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[tuple[Served, dict[str, str]]]:
    """The Django host on a server, and the environment in which other processes of the host run."""
    directory = tmp_path_factory.mktemp("django")
    database = shutil.copy(sqlite_template, directory / "projkit.db")
    variables = {
        "DJANGO_DATABASE": str(directory / "django.db"),
        "PROJKIT_DATABASE_URL": f"sqlite:///{database}",
    }
    create = {**variables, "DJANGO_CREATE": "1"}
    run(create, f"import {APP}")
    with started("uvicorn", f"{APP}:app", directory, "/kit/api/v1/health/live", variables) as server:
        yield server, variables


def run(variables: dict[str, str], code: str) -> None:
    """Run code in a process of its own, as management commands and Celery workers do."""
    environment = {**os.environ, "PROJKIT_SECRET": SECRET, **variables, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def log_in(url: str, name: str) -> dict[str, str]:
    """Log in and return the tokens."""
    answer = httpx2.post(f"{url}{AUTH}/login", json={"username": name, "password": PASSWORD}, timeout=20)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, str] = answer.json()
    return tokens


def status(url: str, tokens: dict[str, str]) -> int:
    """Return the status of a request with the access token."""
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    return httpx2.get(f"{url}{AUTH}/session", headers=headers, timeout=20).status_code


@pytest.mark.parametrize(
    ("how", "name"), [("deactivate", "ann"), ("deactivate-async", "ben"), ("delete", "cleo")]
)
def test_a_view_ends_access_at_once(served: tuple[Served, dict[str, str]], how: str, name: str) -> None:
    """A signal in a synchronous or asynchronous view ends the user's access, and the kit goes on serving others."""
    server, _ = served
    tokens, others = log_in(server.url, name), log_in(server.url, "flo")
    assert status(server.url, tokens) == 200
    assert httpx2.get(f"{server.url}/{how}/{name}", timeout=20).status_code == 200
    assert (status(server.url, tokens), status(server.url, others)) == (401, 200)
    assert "Traceback" not in server.log


def test_another_process_ends_access_at_once(served: tuple[Served, dict[str, str]]) -> None:
    """A management command, which has no event loop, ends access on the server."""
    server, variables = served
    tokens = log_in(server.url, "dan")
    code = f"from {APP} import User; user = User.objects.get(username='dan'); user.is_active = False; user.save()"
    run(variables, code)
    assert status(server.url, tokens) == 401


def test_a_bulk_update_is_noticed_at_the_refresh(served: tuple[Served, dict[str, str]]) -> None:
    """A change without a signal ends the session at its next refresh; scopes follow the user before that."""
    server, _ = served
    tokens = log_in(server.url, "eve")

    def refresh() -> httpx2.Response:
        body = {"refresh_token": tokens["refresh_token"]}
        return httpx2.post(f"{server.url}{AUTH}/refresh", json=body, timeout=20)

    tokens = refresh().json()
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert httpx2.get(f"{server.url}{AUTH}/session", headers=headers).json()["scopes"] == ["projects:read"]
    assert httpx2.get(f"{server.url}/update/eve", timeout=20).status_code == 200
    assert status(server.url, tokens) == 200
    assert refresh().status_code == 401
    assert status(server.url, tokens) == 401
