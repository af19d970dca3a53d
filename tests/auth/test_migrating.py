"""The move from legacy cookies, step by step, with the very blocks of the document that describes it."""

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from projkit import ProjKit, Settings
from tests.auth.asgi_client import Header, ask, bearer, refuses
from tests.auth.forge import LEGACY_SECRET
from tests.auth.users import AUTH, PASSWORD, PROJECTS, Browser
from tests.corpora import ROOT
from tests.services import postgres_programs

pytestmark = pytest.mark.anyio

DOCUMENT: Final = ROOT / "docs/migrating-from-legacy-cookies.md"
OLD_TABLE: Final = """
CREATE TABLE app_projects (
    id serial PRIMARY KEY, user_id integer NOT NULL, title text NOT NULL, notes text, done boolean NOT NULL,
    due_on date, created_at timestamptz NOT NULL
);
INSERT INTO app_projects (user_id, title, notes, done, due_on, created_at) VALUES
    (7, 'Roof', 'It''s "urgent"', false, '2026-02-28', '2020-01-02 03:04:05.678901+01'),
    (7, 'Cellar', NULL, true, NULL, '2021-01-01 00:00:00Z'),
    (8, 'Garden', NULL, false, NULL, '2022-01-01 00:00:00Z');
"""
# The host's own users, as the document's ``authenticate`` finds them.
OLD_USERS: Final = """
import hashlib
import hmac
from types import SimpleNamespace

def _hash(password):
    return hashlib.scrypt(password.encode(), salt=b"salt", n=1024, r=8, p=1)

DUMMY_HASH = _hash("nobody has this password")
BOB = SimpleNamespace(id=7, is_active=True, password_hash=_hash("correct horse battery staple"))
_USERS = {"bob@example.com": BOB}
find_user = _USERS.get

def find_user_by_id(subject):
    return BOB if subject == "7" else None

def verify_password(password, stored):
    return hmac.compare_digest(_hash(password), stored)
"""
FRONT_END: Final[list[Header]] = [("origin", "https://app.example.com"), ("sec-fetch-site", "same-site")]


def blocks(language: str) -> list[str]:
    """Return the document's blocks of one language."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def variables(block: str) -> dict[str, str]:
    """Return the settings of a block, without comments."""
    pairs = re.findall(r"^(PROJKIT_\w+)=(\S+)", block, re.MULTILINE)
    return dict(pairs)


@pytest.fixture
def old_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kit of the document import the users of the old back end."""
    (tmp_path / "myapp").mkdir()
    (tmp_path / "myapp" / "users.py").write_text(OLD_USERS)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def environment(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the kit of the document requires."""
    monkeypatch.setenv("PROJKIT_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("PROJKIT_SECRET", "a new secret of the tests, long enough too")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a block of the document, with this package as ``projkit``."""
    command = tmp_path / "bin" / "projkit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from projkit.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")

    def run(block: str) -> None:
        # The commands have tests of their own, so measuring their coverage here would only make them slower.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        done = subprocess.run(
            ["bash", "-c", block],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@asynccontextmanager
async def started(**changes: str) -> AsyncIterator[ProjKit]:
    """Start the kit of the document, with the settings of the environment and the given ones."""
    namespace: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setenv(f"PROJKIT_{name}", value)
        exec(blocks("python")[0], namespace)
    kit: ProjKit = namespace["kit"]
    async with kit.lifespan():
        yield kit


def legacy_token(**claims: Any) -> str:
    """Return a token of the old back end."""
    content = {"user_id": 7, "exp": int(time.time()) + 3600, **claims}
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, content, OctKey.import_key(LEGACY_SECRET.encode()))


def old_browser(kit: ProjKit) -> Browser:
    """A browser that has the legacy cookie, as http.cookies wrote it."""
    browser = Browser(kit)
    browser.jar["access_token"] = f'"Bearer {legacy_token()}"'
    return browser


def count(kit: ProjKit, name: str, **labels: str) -> float:
    """Return the value of a counter."""
    return kit.registry.get_sample_value(name, labels) or 0.0


async def names(browser: Browser) -> list[str]:
    """The names of the projects that a browser sees."""
    answer = await browser.send("GET", PROJECTS, [])
    assert answer.status == 200, answer
    return sorted(item["name"] for item in answer.json()["items"])


@pytest.mark.usefixtures("old_users")
async def test_the_whole_move(
    sqlite_url: str, empty_postgres_url: str, shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old clients keep working, see their old projects, move at a login, and are counted until none is left."""
    monkeypatch.setenv("PATH", str(postgres_programs()), prepend=os.pathsep)  # it runs psql
    connection = await asyncpg.connect(empty_postgres_url)
    await connection.execute(OLD_TABLE)
    await connection.close()
    make_keys, settings, _, import_projects, ending = blocks("sh")

    # 1. Mounted, with nothing else changed.
    shell(make_keys)
    environment = {
        **variables(settings),
        "PROJKIT_DATABASE_URL": sqlite_url,
        "PROJKIT_LEGACY_SECRET": LEGACY_SECRET,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # 3. The projects.
    monkeypatch.setenv("OLD_DATABASE_URL", empty_postgres_url)
    shell(import_projects)

    async with started() as kit:
        browser = old_browser(kit)
        assert await names(browser) == ["Cellar", "Roof"]
        items = (await browser.send("GET", PROJECTS, [])).json()["items"]
        (roof,) = [item for item in items if item["external_id"] == "1"]
        assert (roof["created_at"], roof["due_date"]) == ("2020-01-02T02:04:05.678901Z", "2026-02-28")
        answer = await browser.send("POST", PROJECTS, FRONT_END, json={"name": "Door"})
        assert answer.status == 201
        assert answer.header("deprecation") is not None
        evil = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]
        assert (await browser.send("POST", PROJECTS, evil, json={"name": "X"})).code == "csrf_failed"
        program = [bearer(legacy_token(user_id=None, sub="7"))]
        assert (await ask(kit, "GET", PROJECTS, program)).status == 200
        old = {"format": "legacy", "outcome": "accepted"}
        assert count(kit, "projkit_auth_credentials_total", transport="access_token", **old) >= 3
        assert count(kit, "projkit_auth_credentials_total", transport="bearer", **old) == 1
        tokenless = {"mode": "origin", "outcome": "accepted_without_token"}
        assert count(kit, "projkit_auth_csrf_checks_total", **tokenless) == 1

        # 4. A login moves the browser; a wrong password does not.
        login = {"username": "bob@example.com", "password": PASSWORD, "transport": "cookie"}
        wrong = await browser.send("POST", f"{AUTH}/login", FRONT_END, json={**login, "password": "wrong"})
        assert wrong.code == "invalid_credentials"
        answer = await browser.send("POST", f"{AUTH}/login", FRONT_END, json=login)
        assert answer.status == 200
        cleared = [each for each in answer.all("set-cookie") if each.startswith("access_token=;")]
        assert any("Domain=example.com" in each for each in cleared)
        assert "access_token" not in browser.jar
        session = (await browser.whoami()).json()
        assert (session["subject"], session["token_format"]) == ("7", "enhanced")
        assert await names(browser) == ["Cellar", "Door", "Roof"]

    # 5. The token is asked for, and old browsers can get one.
    async with started(CSRF_MODE="signed") as kit:
        late = old_browser(kit)
        assert (await late.send("POST", PROJECTS, FRONT_END, json={"name": "X"})).code == "csrf_failed"
        assert (await late.send("GET", f"{AUTH}/csrf", [])).status == 200
        token = ("x-csrf-token", late.jar["csrf_token"])
        assert (await late.send("POST", PROJECTS, [*FRONT_END, token], json={"name": "Gate"})).status == 201

    # 6. and 7. An end is announced, and comes; what has moved stays.
    for name, value in variables(ending).items():
        monkeypatch.setenv(name, value)
    sunset = Settings().legacy_sunset
    assert sunset is not None
    for changes, status in (({}, 200), ({"LEGACY_SUNSET": "2026-01-02"}, 401), ({"LEGACY_SECRET": ""}, 401)):
        async with started(**changes) as kit:
            answer = await old_browser(kit).send("GET", PROJECTS, [])
            assert answer.status == (status if changes or time.time() < sunset.timestamp() else 401)
            if status == 401:
                refuses(answer)
            moved = Browser(kit)
            moved.jar = dict(browser.jar)
            assert (await moved.whoami()).status == 200


@pytest.mark.usefixtures("environment")
async def test_users_that_move_into_the_kits_table(shell: Any, tmp_path: Path) -> None:
    """Migrated users keep the subject that owns their projects, with random passwords."""
    (tmp_path / "users.csv").write_text("bob@example.com,7\nal,8\n")
    shell(blocks("sh")[2])
    shell("printf '%s' 'correct horse battery staple' | projkit user password bob@example.com")
    kit = ProjKit()
    async with kit.lifespan():
        browser = Browser(kit)
        await browser.log_in("bob@example.com")
        assert (await browser.whoami()).json()["subject"] == "7"
        content = {"username": "al", "password": PASSWORD}
        assert (await ask(kit, "POST", f"{AUTH}/login", json=content)).code == "invalid_credentials"


@pytest.mark.usefixtures("old_users", "environment")
async def test_a_user_of_the_host_is_deactivated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the host deactivates can neither use an old token nor refresh."""
    async with started(LEGACY_SECRET=LEGACY_SECRET, STILL_VALID_CACHE_SECONDS="0") as kit:
        browser, old = Browser(kit), old_browser(kit)
        await browser.log_in("bob@example.com")
        assert (await old.send("GET", PROJECTS, [])).status == 200
        assert (await browser.send("POST", f"{AUTH}/refresh")).status == 200
        users = importlib.import_module("myapp.users")
        monkeypatch.setattr(users.BOB, "is_active", False)
        refuses(await old.send("GET", PROJECTS, []))
        assert (await browser.send("POST", f"{AUTH}/refresh")).code == "invalid_refresh_token"
        wrong = {"username": "bob@example.com", "password": "wrong"}
        assert (await ask(kit, "POST", f"{AUTH}/login", json=wrong)).code == "invalid_credentials"


@pytest.mark.usefixtures("old_users", "environment")
async def test_a_user_of_the_host_is_shut_out(shell: Any) -> None:
    """Disabling a host's user here ends their sessions and legacy tokens."""
    async with started(LEGACY_SECRET=LEGACY_SECRET) as kit:
        browser, old = Browser(kit), old_browser(kit)
        await browser.log_in("bob@example.com")
        assert [(await each.send("GET", PROJECTS, [])).status for each in (browser, old)] == [200, 200]
        shell("echo 'never told to anybody' | projkit user add bob --subject 7 && projkit user disable bob")
        assert [(await each.send("GET", PROJECTS, [])).status for each in (browser, old)] == [401, 401]
        content = {"username": "bob@example.com", "password": PASSWORD}
        assert (await ask(kit, "POST", f"{AUTH}/login", json=content)).code == "invalid_credentials"
