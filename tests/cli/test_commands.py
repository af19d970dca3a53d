"""The commands of the command line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from projkit import ProjKit, Settings
from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenVerifier
from projkit.cli.demo import DEMO_PASSWORD
from projkit.projects import service
from tests.cli.conftest import Run
from tests.cli.running import PROJKIT, projkit, serving
from tests.conftest import SECRET, settings_for, token_for
from tests.conftest import serving as serving_kit


@contextmanager
def api(database_url: str) -> Iterator[httpx2.Client]:
    """Yield a client of a kit on a database, as the demo user."""
    settings = settings_for(database_url)
    headers = {"Authorization": f"Bearer {token_for(settings, 'demo')}"}
    with (
        serving_kit(ProjKit(settings)) as url,
        httpx2.Client(base_url=f"{url}/api/v1", headers=headers) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signing key of the commands and the servers."""
    monkeypatch.setenv("PROJKIT_SECRET", SECRET)


def test_serve_demo() -> None:
    """serve --demo prints a token that reads the demo projects, adds a user, and stops cleanly."""
    for workers in ("2", "1"):
        with serving("--demo", "--workers", workers) as (url, token):
            headers = {"Authorization": f"Bearer {token}"}
            page = httpx2.get(
                f"{url}/api/v1/projects?limit=100&archived=any&total=true", headers=headers
            ).json()
            assert page["total"] == 12
            for path in ("docs", "monitoring", "monitoring/metrics/performance"):
                assert httpx2.get(f"{url}/api/v1/{path}").status_code == 200
            content = {"username": "demo", "password": DEMO_PASSWORD}
            own = httpx2.post(f"{url}/api/v1/auth/login", json=content).json()["access_token"]
            headers = {"Authorization": f"Bearer {own}"}
            assert httpx2.get(f"{url}/api/v1/projects?total=true", headers=headers).json()["total"] == 12


def test_no_demo_in_production(run: Run) -> None:
    """--demo is rejected in production and with tenants."""
    said = run("serve", "--demo", expect=1, PROJKIT_ENV="production", PROJKIT_SECRET=SECRET).stderr
    assert "not allowed in production; remove --demo, or set PROJKIT_ENV=development" in said
    assert "unset PROJKIT_TENANT_CLAIM" in run("serve", "--demo", expect=1, PROJKIT_TENANT_CLAIM="org").stderr


def test_greeting_in_production(run: Run) -> None:
    """In production the greeting contains neither a token nor a password."""
    with serving(PROJKIT_ENV="production", PROJKIT_SECRET=SECRET) as (url, token):
        assert httpx2.get(f"{url}/api/v1/health/live").status_code == 200
        assert token == ""


def test_serve_drains_before_it_stops() -> None:
    """After a signal, readiness returns 503 while requests are served; then the server stops."""
    process = subprocess.Popen(
        [*PROJKIT, "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PROJKIT_DRAIN_SECONDS": "1.5",
            "PROJKIT_LOG_FORMAT": "json",
            "PROJKIT_SECRET": SECRET,
        },
    )
    assert process.stderr is not None
    try:
        first = json.loads(process.stderr.readline())
        url = first["url"].removesuffix("/api/v1")
        with httpx2.Client(base_url=url) as client:
            while client.get("/api/v1/health/ready").status_code != 200:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            while client.get("/api/v1/health/ready").status_code != 503:
                time.sleep(0.02)
            assert client.get("/api/v1/health/live").status_code == 200
        rest = process.communicate(timeout=30)[1]
        assert process.returncode == 0, rest
        messages = [json.loads(line) for line in rest.splitlines()]
        assert any("draining" in message["message"] for message in messages)
    finally:
        process.kill()
        process.communicate()


def test_serve_enables_cors_for_allowed_origins() -> None:
    """CORS is enabled only for ALLOWED_ORIGINS, and allows the configured CSRF header."""
    names = {"PROJKIT_ALLOWED_ORIGINS": "https://front.example", "PROJKIT_CSRF_HEADER_NAME": "X-XSRF-Token"}
    with serving(**names) as (url, _):
        for origin, allowed in (
            ("https://front.example", "https://front.example"),
            ("https://evil.example", None),
        ):
            answer = httpx2.get(f"{url}/api/v1/health/live", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
            asked = {"Origin": origin, "Access-Control-Request-Method": "PATCH"}
            preflight = httpx2.options(f"{url}/api/v1/projects", headers=asked)
            assert preflight.status_code == 204
            assert preflight.headers["allow"] == "GET, HEAD, OPTIONS, POST"
            assert "x-request-id" in preflight.headers
            assert preflight.headers.get("access-control-allow-origin") == allowed
            assert ("access-control-allow-methods" in preflight.headers) == (allowed is not None)
        asked = {
            "Origin": "https://front.example",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type, if-match, x-xsrf-token",
        }
        preflight = httpx2.options(f"{url}/api/v1/projects", headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-credentials"] == "true"
        assert "x-xsrf-token" in preflight.headers["access-control-allow-headers"].lower()
        answer = httpx2.get(f"{url}/api/v1/projects", headers={"Origin": "https://front.example"})
        assert (answer.status_code, answer.headers["access-control-allow-credentials"]) == (401, "true")
        exposed = set(answer.headers["access-control-expose-headers"].lower().split(", "))
        assert {
            "etag",
            "link",
            "location",
            "retry-after",
            "www-authenticate",
            "deprecation",
            "sunset",
        } <= exposed


def test_any_origin_excludes_cookies() -> None:
    """If every origin is allowed, none may send cookies."""
    with serving(PROJKIT_ALLOWED_ORIGINS="*") as (url, _):
        answer = httpx2.get(f"{url}/api/v1/health/live", headers={"Origin": "https://any.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(("proxies", "last"), [("", 429), ("127.0.0.1", 401)])
def test_serve_trusts_only_trusted_proxies(proxies: str, last: int) -> None:
    """X-Forwarded-For does not evade a limit unless TRUSTED_PROXIES contains the sender."""
    limits = {"PROJKIT_LOGIN_LIMIT_ADDRESS": "2/minute", "PROJKIT_TRUSTED_PROXIES": proxies}
    with serving(**limits) as (url, _):
        statuses = [
            httpx2.post(
                f"{url}/api/v1/auth/login",
                json={"username": f"user {number}", "password": "wrong password"},
                headers={"X-Forwarded-For": f"192.0.2.{number}", "Forwarded": f"for=192.0.2.{number}"},
            ).status_code
            for number in range(3)
        ]
    assert statuses == [401, 401, last]


def test_serve_reports_start_errors(run: Run, empty_postgres_url: str) -> None:
    """A port in use, a missing schema and an invalid setting end the start with one line and exit code 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        # The one that is started as a process.
        assert f"projkit serve --port {port + 1}" in projkit("serve", "--port", str(port), expect=1).stderr
    behind = run("serve", "--port", "0", expect=1, PROJKIT_DATABASE_URL=empty_postgres_url)
    assert "projkit migrate" in behind.stderr
    wrong = run("serve", expect=1, PROJKIT_SECRET="short")
    assert "failed: PROJKIT_SECRET: must have at least 32 bytes" in wrong.stderr
    run("serve", "--port", "many", expect=2)
    run("unheard-of", expect=2)


def test_token() -> None:
    """token prints only the token, which a kit with the same key accepts."""
    settings = Settings(secret=SECRET)
    verifier = TokenVerifier(load_keys(settings), settings)
    token = projkit("token", "--subject", "alice", "--scopes", "projects:read", "--ttl", "1h").stdout
    principal = verifier.verify(token.strip())
    assert (principal.subject, principal.scopes) == ("alice", frozenset({"projects:read"}))
    assert principal.claims["exp"] - principal.claims["iat"] == 3600
    assert token.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--subject", "a", "--scopes", "projects:fly"), ("--subject", ""), ("--subject", "a", "--ttl", "soon"),
        ("--subject", "a", "--ttl", "0s"), ("--subject", "a", "--tenant", "acme"), ("--subject", "x" * 256), (),
    ],
)  # fmt: skip
def test_wrong_token_options(run: Run, arguments: tuple[str, ...]) -> None:
    """An invalid option is a usage error."""
    run("token", *arguments, expect=2)


def test_token_with_a_tenant(run: Run) -> None:
    """With TENANT_CLAIM, a tenant is required."""
    run("token", "--subject", "a", expect=2, PROJKIT_TENANT_CLAIM="org")
    assert run("token", "--subject", "a", "--tenant", "acme", PROJKIT_TENANT_CLAIM="org").stdout


def test_openapi(run: Run) -> None:
    """openapi prints the document as JSON."""
    assert json.loads(run("openapi").stdout)["openapi"].startswith("3.1")


def test_openapi_with_prefixes(run: Run) -> None:
    """Openapi puts prefixes before paths and names, and rejects one that no name may contain."""
    document = json.loads(run("openapi", "--path-prefix", "/kit", "--name-prefix", "kit_").stdout)
    assert document["paths"]["/kit/api/v1/projects"]["get"]["operationId"] == "kit_listProjects"
    assert "name_prefix" in run("openapi", "--name-prefix", "my kit", expect=2).stderr


def test_migrate_and_check(run: Run, empty_postgres_url: str) -> None:
    """migrate --check fails until migrate has run; check then reports no failure."""
    variables: dict[str, Any] = {"PROJKIT_DATABASE_URL": empty_postgres_url}
    assert "projkit migrate" in run("migrate", "--check", expect=1, **variables).stderr
    found = json.loads(run("check", "--json", expect=1, **variables).stdout)
    assert [each["name"] for each in found if not each["ok"]] == ["migrations"]
    run("migrate", **variables)
    run("migrate", **variables)
    assert "can use the schema" in run("migrate", "--check", **variables).stderr
    found = json.loads(run("check", "--json", **variables).stdout)
    assert [each["name"] for each in found] == [
        "settings", "secrets", "telemetry", "database", "migrations", "clock", "users",
    ]  # fmt: skip
    assert run("check", **variables).stdout.count("ok ") == 7


def write(path: Path, rows: list[Any]) -> Path:
    """Write an NDJSON file."""
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_import_and_export_round_trip(run: Run, tmp_path: Path, any_database_url: str) -> None:
    """Importing twice creates no duplicates, and an export in either format can be imported again."""
    variables: dict[str, Any] = {"PROJKIT_DATABASE_URL": any_database_url}
    rows: list[dict[str, Any]] = [
        {"name": "A", "external_id": "E-1", "tags": ["x", "y"], "metadata": {"a": [1, None]}, "status": "completed"},
        {"name": "Ünïcode, \"quoted\"\nline", "due_date": "2026-01-31", "priority": "critical"},
        {"name": "same"}, {"name": "same"},
    ]  # fmt: skip
    source = write(tmp_path / "in.ndjson", [*rows, "\n"])
    for created, unchanged in ((4, 0), (0, 4)):
        report = json.loads(run("import", str(source), "--owner", "alice", "--json", **variables).stdout)
        assert (report["created"], report["updated"], report["unchanged"], report["bad"]) == (
            created,
            0,
            unchanged,
            [],
        )
    write(source, [{**rows[0], "name": "B"}, *rows[1:]])
    report = json.loads(run("import", str(source), "--owner", "alice", "--json", **variables).stdout)
    assert (report["created"], report["updated"], report["unchanged"]) == (0, 1, 3)
    for suffix in ("ndjson", "csv"):
        out = tmp_path / f"out.{suffix}"
        run("export", str(out), "--owner", "alice", **variables)
        report = json.loads(run("import", str(out), "--owner", "alice", "--json", **variables).stdout)
        assert (report["created"], report["updated"], report["unchanged"], report["bad"]) == (0, 0, 4, [])
        report = json.loads(run("import", str(out), "--owner", f"bob {suffix}", "--json", **variables).stdout)
        assert (report["created"], report["bad"]) == (4, [])


def test_invalid_rows_are_reported_by_line(run: Run, tmp_path: Path) -> None:
    """Invalid rows are reported by line with exit code 1, and are skipped or stop the import."""
    source = write(
        tmp_path / "in.ndjson",
        [
            {"name": "A"},
            "{\n",
            {"name": ""},
            {"name": "B", "colour": 1},
            "[]\n",
            {"name": "C", "id": "x"},
            {"name": "D"},
        ],
    )
    report = json.loads(run("import", str(source), "--owner", "a", "--json", expect=1).stdout)
    assert [bad["line"] for bad in report["bad"]] == [2, 3, 4, 5, 6]
    assert report["created"] == 2
    stopped = run("import", str(source), "--owner", "b", "--on-error", "stop", expect=1)
    assert "line 2" in stopped.stdout + stopped.stderr
    assert "1 created, 0 updated, 0 unchanged, 1 invalid rows" in stopped.stderr
    table = tmp_path / "in.csv"
    table.write_text('name,tags\nA,"[""x""]"\nB,nonsense\nC,[],surplus\n')
    report = json.loads(run("import", str(table), "--owner", "c", "--json", expect=1).stdout)
    assert (report["created"], [bad["line"] for bad in report["bad"]]) == (1, [3, 4])


def test_deleted_projects_are_imported_again(run: Run, any_database_url: str, tmp_path: Path) -> None:
    """A row whose project was deleted is imported again, with or without an external_id."""
    source = write(tmp_path / "in.ndjson", [{"name": "A"}, {"name": "B", "external_id": "E"}])
    for _ in range(2):
        arguments = ("import", str(source), "--owner", "demo", "--json")
        assert json.loads(run(*arguments, PROJKIT_DATABASE_URL=any_database_url).stdout)["created"] == 2
        with api(any_database_url) as client:
            items = client.get("/projects").json()["items"]
            assert sorted(item["name"] for item in items) == ["A", "B"]
            for item in items:
                client.delete(f"/projects/{item['id']}")


def test_unreadable_files(run: Run, tmp_path: Path) -> None:
    """A missing file and an unsupported format are reported."""
    run("import", str(tmp_path / "none.ndjson"), "--owner", "a", expect=2)
    (tmp_path / "in.xml").write_text("<a/>")
    assert "ndjson" in run("import", str(tmp_path / "in.xml"), "--owner", "a", expect=2).stderr.lower()


def test_export_without_a_total(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner with too many projects to count them for the progress bar can export them."""
    run("import", str(write(tmp_path / "in.ndjson", [{"name": "A"}, {"name": "B"}])), "--owner", "a")
    monkeypatch.setattr(service, "EXACT_COUNT_SECONDS", 0)
    done = run("export", "-", "--owner", "a")
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["A", "B"]
    assert "2 projects exported" in done.stderr


def test_export_to_standard_output(run: Run, tmp_path: Path) -> None:
    """A dash writes to standard output, and an unsupported format is a usage error."""
    run("import", str(write(tmp_path / "in.ndjson", [{"name": "A"}])), "--owner", "a")
    assert json.loads(run("export", "-", "--owner", "a").stdout)["name"] == "A"
    run("export", str(tmp_path / "out.xml"), "--owner", "a", expect=2)


def test_unknown_variable_warns(run: Run) -> None:
    """An unknown PROJKIT_ variable causes a warning with the closest setting."""
    said = run("migrate", PROJKIT_SECRT="x").stderr
    assert "warning: unknown setting PROJKIT_SECRT; did you mean PROJKIT_SECRET?" in said


def test_migrating_an_unavailable_database(run: Run) -> None:
    """An unavailable database is reported with its setting, but without the password."""
    said = run("migrate", expect=1, PROJKIT_DATABASE_URL="postgresql://u:hidden@127.0.0.1:1/n").stderr
    assert "failed: PROJKIT_DATABASE_URL" in said
    assert "hidden" not in said


def test_second_signal_stops_at_once() -> None:
    """A second signal ends draining at once."""
    with serving("--no-access-log", PROJKIT_DRAIN_SECONDS="30") as _:
        pass  # the first signal is sent on the way out


@pytest.mark.parametrize(
    ("content", "created", "bad"),
    [
        ('name,tags\n"A\nB",[]\n\nC,nonsense\n', 1, [5]),
        ("name,description\nA,{long}\nB,b\n", 1, [2]),
        ('name,description\nA,a\nB,"open\nC,c\n', 1, [3]),
        ("name,description,\nA,a,\nB,b,surplus\n", 1, [3]),
        ("\ufeffname\r\nA\r\n", 1, []),
    ],
    ids=["line-break", "long-field", "open-quote", "trailing-comma", "bom"],
)
def test_unusual_csv_files(run: Run, tmp_path: Path, content: str, created: int, bad: list[int]) -> None:
    """An invalid CSV row is reported by its first line, and no later row is lost."""
    source = tmp_path / "IN.CSV"
    source.write_text(content.replace("{long}", "x" * 200_000), newline="")
    report = json.loads(run("import", str(source), "--owner", "a", "--json", expect=1 if bad else 0).stdout)
    assert (report["created"], [each["line"] for each in report["bad"]]) == (created, bad)


@pytest.mark.parametrize(
    ("header", "said"), [("name,colour", "unknown column 'colour'"), ("status", "column 'name' is missing")]
)
def test_csv_headers(run: Run, tmp_path: Path, header: str, said: str) -> None:
    """An unknown or missing column is reported once, before anything is imported."""
    source = tmp_path / "in.csv"
    source.write_text(f"{header}\nA,b\n")
    stderr = run("import", str(source), "--owner", "a", expect=1).stderr
    assert said in stderr
    assert stderr.count("line 1") == 1


def test_archived_projects(run: Run, tmp_path: Path) -> None:
    """Archived and completed states survive a move, and an import does not change an archived project."""
    with api("sqlite:///projkit.db") as client:
        made = client.post("/projects", json={"name": "A", "status": "completed", "external_id": "E"}).json()
        made = client.post(f"/projects/{made['id']}/archive").json()
    run("export", "out.ndjson", "--owner", "demo")
    run("import", "out.ndjson", "--owner", "other")
    (moved,) = [json.loads(line) for line in run("export", "-", "--owner", "other").stdout.splitlines()]
    for name in ("archived_at", "completed_at", "created_at", "name", "status"):
        assert moved[name] == made[name]
    (tmp_path / "out.ndjson").write_text('{"name": "B", "external_id": "E"}\n')
    report = json.loads(run("import", "out.ndjson", "--owner", "other", "--json", expect=1).stdout)
    assert report["bad"] == [{"line": 1, "detail": "the project is archived; unarchive it before editing"}]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("export", "/nonexistent/x.ndjson", "--owner", "a"), 1, "cannot write /nonexistent/x.ndjson"),
        (("export", "x.ndjson", "--owner", ""), 2, "--owner"),
        (("export", "x.ndjson", "--owner", "a" * 300), 2, "255"),
        (("export", "x.ndjson", "--owner", "a", "--tenant", "t"), 2, "TENANT_CLAIM"),
        (("purge", "--deleted-before", "999999d"), 2, "36500d"),
        (("serve", "--host", "no.such.host.invalid"), 1, "use an address of this machine"),
    ],
)
def test_invalid_arguments(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    """An invalid argument ends with a message that names it, never with a traceback."""
    done = run(*arguments, expect=code)
    assert said in done.stderr


@pytest.mark.parametrize("command", [("migrate", "--check"), ("migrate",), ("check",)])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://x@127.0.0.1:1/x?sslmode=require",
        "postgresql://x@h:port/x",
        "sqlite:////nonexistent/x.db",
    ],
)
def test_unusable_database_urls(run: Run, command: tuple[str, ...], url: str) -> None:
    """Every command reports an unusable database URL in one line."""
    done = run(*command, expect=1, PROJKIT_DATABASE_URL=url)
    assert "failed" in done.stdout + done.stderr


def test_database_url_parameters(run: Run, any_database_url: str) -> None:
    """Database URLs may contain libpq's parameters in both modes, and file names escaped characters."""
    more = "?sslmode=prefer&application_name=ours" if any_database_url.startswith("postgresql") else ""
    variables: dict[str, Any] = {"PROJKIT_DATABASE_URL": any_database_url + more, "PROJKIT_SECRET": SECRET}
    run("migrate", "--check", **variables)
    for mode in ("fast", "transactional"):
        run("export", "-", "--owner", "a", **variables, PROJKIT_DATABASE_MODE=mode)
    run("export", "-", "--owner", "a", PROJKIT_DATABASE_URL="sqlite:///my%20own.db")
    assert [path.name for path in Path().glob("*own.db")] == ["my own.db"]


def test_version(run: Run) -> None:
    """--version prints the version, also as a module of Python."""
    version = run("--version").stdout
    assert re.fullmatch(r"projkit \d+\.\d+\.\d+\n", version)
    command = [sys.executable, "-m", "projkit", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == version


def test_check_creates_no_database(run: Run, tmp_path: Path) -> None:
    """check in an empty directory reports no failure and creates no database."""
    run("check")
    assert not (tmp_path / "projkit.db").exists()
