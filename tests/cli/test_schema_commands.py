"""The commands with the tables in a schema of their own."""

import json
from pathlib import Path

from tests.cli.conftest import Run
from tests.conftest import SECRET


def test_every_command_uses_the_schema(run: Run, empty_postgres_url: str, tmp_path: Path) -> None:
    """migrate, user, import, export, purge and check work with a schema of their own."""
    variables = {
        "PROJKIT_SECRET": SECRET,
        "PROJKIT_DATABASE_URL": empty_postgres_url,
        "PROJKIT_DATABASE_SCHEMA": "kit",
    }
    assert "no projkit tables" in run("migrate", "--check", expect=1, **variables).stderr
    run("migrate", **variables)
    run("migrate", "--check", **variables)
    run("user", "add", "alice", stdin="a long enough password", **variables)
    assert "alice" in run("user", "list", **variables).stdout
    file = tmp_path / "projects.ndjson"
    file.write_text(json.dumps({"name": "Roof", "external_id": "1"}) + "\n")
    run("import", str(file), "--owner", "alice", **variables)
    exported = run("export", "-", "--owner", "alice", **variables).stdout
    assert json.loads(exported)["name"] == "Roof"
    assert "removed 0 deleted projects" in run("purge", "--deleted-before", "1d", **variables).stderr
    findings = json.loads(run("check", "--json", **variables).stdout)
    assert {each["name"]: each["detail"] for each in findings}["users"] == "1 with a username, 0 disabled"
