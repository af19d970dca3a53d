"""`projkit user`: users are added, listed, disabled and enabled, and their sessions end on every worker."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.conftest import Run
from tests.cli.running import PROJKIT, redis_server, serving
from tests.conftest import SECRET

PASSWORD = "correct horse battery"
OTHER = "another password"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signing key of the commands and the servers."""
    monkeypatch.setenv("PROJKIT_SECRET", SECRET)


def listed(run: Run, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run user list and return the users by name."""
    found = json.loads(run("user", "list", "--json", *arguments, **variables).stdout)
    return {each["username"]: each for each in found}


def test_add_and_list(run: Run, any_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user has the name as subject and the default scopes, unless given; the list shows no password."""
    monkeypatch.setenv("PROJKIT_DATABASE_URL", any_database_url)
    said = run("user", "add", "bob", stdin=f"{PASSWORD}\n")
    assert said.stderr == "added bob with the subject bob\n"
    assert said.stdout == ""
    scopes = "projects:read admin"
    run("user", "add", "Ünal [x]", "--subject", "u-1", "--scopes", scopes, stdin=f"{PASSWORD}\r\nsecond line")
    found = listed(run)
    assert list(found) == ["bob", "Ünal [x]"]
    assert (found["bob"]["subject"], found["bob"]["scopes"]) == ("bob", ["projects:read", "projects:write"])
    assert (found["Ünal [x]"]["subject"], found["Ünal [x]"]["scopes"]) == ("u-1", scopes.split())
    assert [each["disabled_at"] for each in found.values()] == [None, None]
    table = run("user", "list").stdout
    assert "Ünal [x]" in table
    assert "u-1" in table
    assert PASSWORD not in table + json.dumps(found)
    assert "argon2" not in table + json.dumps(found)


def test_names_are_case_insensitive(run: Run) -> None:
    """Names are case-insensitive, and a name or subject in use is rejected."""
    run("user", "add", "bob", stdin=PASSWORD)
    for arguments in (("BOB",), (" bob ", "--subject", "b"), ("eve", "--subject", "bob")):
        said = run("user", "add", *arguments, expect=1, stdin=PASSWORD).stderr
        assert "already exists; list users with: projkit user list" in said
    run("user", "disable", "Bob")
    assert listed(run)["bob"]["disabled_at"] is not None
    run("user", "enable", "BOB")
    assert listed(run)["bob"]["disabled_at"] is None


@pytest.mark.parametrize("password", ["", "\n", "short\n", "x" * 257, "bobbobbob\n", f"\n{PASSWORD}\n"])
def test_invalid_passwords(run: Run, password: str) -> None:
    """A password that is too short, too long, missing or the name is rejected, and nothing changes."""
    assert (
        "failed: invalid password: Must" in run("user", "add", "bobbobbob", expect=1, stdin=password).stderr
    )
    assert listed(run) == {}
    run("user", "add", "bobbobbob", stdin=PASSWORD)
    assert (
        "failed: invalid password: Must"
        in run("user", "password", "bobbobbob", expect=1, stdin=password).stderr
    )


def test_password_that_is_not_utf8(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that is not UTF-8 is rejected."""
    done = subprocess.run(
        [*PROJKIT, "user", "add", "bob"], input=b"\xff\xfe\xfd password\n", capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, b"failed: the password is not valid UTF-8\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("add",), ("add", ""), ("add", "a\nb"), ("add", "x" * 256), ("add", "a", "--subject", ""),
        ("add", "a", "--subject", "x" * 256), ("add", "a", "--subject", "\udcff"), ("add", "\udcff"),
        ("add", "a", "--scopes", "projects:fly"),
        ("add", "a", "--tenant", "acme"), ("list", "--tenant", "acme"), ("disable",), ("disable", "a", "--tenant", "t"),
        ("enable", ""), ("password", ""), ("remove", "a"),
    ],
)  # fmt: skip
def test_wrong_use(run: Run, arguments: tuple[str, ...]) -> None:
    """An invalid argument is a usage error."""
    run("user", *arguments, expect=2, stdin=PASSWORD)


@pytest.mark.parametrize("command", ["disable", "enable", "password"])
def test_unknown_user(run: Run, command: str) -> None:
    """An unknown user is reported."""
    said = run("user", command, "nobody", expect=1, stdin=PASSWORD).stderr
    assert "There is no user nobody; list users with: projkit user list" in said


def test_tenants(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TENANT_CLAIM each tenant has its own users, and a tenant is required."""
    monkeypatch.setenv("PROJKIT_TENANT_CLAIM", "org")
    for tenant in ("acme", "umbrella"):
        run("user", "add", "bob", "--tenant", tenant, stdin=PASSWORD)
    run("user", "disable", "bob", "--tenant", "acme")
    assert listed(run, "--tenant", "acme")["bob"]["disabled_at"] is not None
    assert listed(run, "--tenant", "umbrella")["bob"]["disabled_at"] is None
    run("user", "list", expect=2)
    run("user", "disable", "bob", expect=2)


class Terminal:
    """A command with its own terminal."""

    CODE = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from projkit.cli import main; main()"

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""
        self._seen = 0

    def answer(self, asked: str, typed: str) -> None:
        """Type a line when it is requested."""
        self.until(asked)
        os.write(self._ours, f"{typed}\n".encode())

    def until(self, text: str) -> None:
        """Read until a text appears after the previous one."""
        deadline = time.monotonic() + 60
        while text not in self.shown[self._seen :]:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._ours], [], [], 1)[0]:
                self.shown += os.read(self._ours, 1024).decode()
        self._seen = self.shown.index(text, self._seen) + len(text)

    def close(self) -> None:
        """Close the terminal."""
        os.close(self._ours)
        self.process.wait(20)


def test_password_on_a_terminal(run: Run) -> None:
    """On a terminal the password is requested twice, is not shown, and is requested again after a mismatch."""
    terminal = Terminal("user", "add", "bob")
    try:
        terminal.answer("Password: ", OTHER)
        terminal.answer("confirmation: ", PASSWORD)
        terminal.until("do not match")
        assert listed(run) == {}
        terminal.answer("Password: ", PASSWORD)
        terminal.answer("confirmation: ", PASSWORD)
        terminal.until("added bob")
    finally:
        terminal.close()
    assert list(listed(run)) == ["bob"]
    assert PASSWORD not in terminal.shown
    assert OTHER not in terminal.shown


class ApiClient:
    """A client of the API that uses a new connection for each request, so that all workers are reached."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1/auth"

    def log_in(self, password: str) -> httpx2.Response:
        """Log bob in."""
        return httpx2.post(f"{self._url}/login", json={"username": "bob", "password": password})

    def statuses(self, token: str) -> set[int]:
        """Return the statuses of many requests with a token."""
        headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
        return {httpx2.get(f"{self._url}/session", headers=headers).status_code for _ in range(10)}

    def refresh(self, token: str) -> int:
        """Return the status of a refresh."""
        return httpx2.post(f"{self._url}/refresh", json={"refresh_token": token}).status_code


@pytest.fixture(params=["database", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables that configure each session store."""
    if request.param == "database":
        yield {}
        return
    with redis_server(tmp_path) as url:
        yield {"PROJKIT_REDIS_URL": url}


def test_sessions_end_on_every_worker(run: Run, store: dict[str, str]) -> None:
    """After disable or a new password, no worker accepts older tokens, not even after enable."""
    run("user", "add", "bob", stdin=PASSWORD)
    with serving("--workers", "2", "--no-access-log", **store) as (url, _):
        client = ApiClient(url)
        sessions = [client.log_in(PASSWORD).json() for _ in range(2)]
        assert client.statuses(sessions[0]["access_token"]) == {200}
        assert "2 sessions ended" in run("user", "disable", "bob", **store).stderr
        time.sleep(1 if store else 0)  # what Redis' sessions are remembered for at most
        assert [client.statuses(each["access_token"]) for each in sessions] == [{401}, {401}]
        assert client.refresh(sessions[0]["refresh_token"]) == 401
        refused = client.log_in(PASSWORD)
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_credentials")
        run("user", "enable", "bob", **store)
        assert client.statuses(sessions[0]["access_token"]) == {401}
        again = client.log_in(PASSWORD).json()
        assert client.statuses(again["access_token"]) == {200}
        assert "1 sessions ended" in run("user", "password", "bob", stdin=OTHER, **store).stderr
        time.sleep(1 if store else 0)
        assert client.statuses(again["access_token"]) == {401}
        assert client.refresh(again["refresh_token"]) == 401
        assert client.log_in(PASSWORD).status_code == 401
        assert client.log_in(OTHER).status_code == 200


def test_unavailable_session_store(run: Run) -> None:
    """If the sessions cannot be ended, the command fails and says what was and was not changed."""
    run("user", "add", "bob", stdin=PASSWORD)
    for arguments in (("disable", "bob"), ("password", "bob")):
        said = run(
            "user", *arguments, expect=1, stdin=OTHER, PROJKIT_REDIS_URL="redis://127.0.0.1:1/0"
        ).stderr
        assert "the user was changed, but their sessions could not be ended" in said
        assert "run the command again" in said
    assert listed(run)["bob"]["disabled_at"] is not None
