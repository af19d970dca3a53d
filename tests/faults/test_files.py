"""SQLite files that cannot be written: a full disk, a read-only file."""

import os
import sqlite3
from pathlib import Path

import httpx2

from tests.faults.conftest import headers, serve

# Root may write to read-only files, unless that capability is dropped.
UNPRIVILEGED = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []


def test_a_full_disk(sqlite_url: str) -> None:
    """When the file cannot grow, writes get a 503, reads succeed, and acknowledged writes are there."""
    acknowledged = []
    with serve(sqlite_url, file_bytes=1_000_000) as server:
        with httpx2.Client(headers=headers(), timeout=10) as client:
            for number in range(1000):
                answer = client.post(server.projects, json={"name": f"{number}", "description": "x" * 9000})
                if answer.status_code != 201:
                    break
                acknowledged.append(answer.json())
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable"), answer.text
            assert len(acknowledged) > 10
            for project in acknowledged:
                assert client.get(f"{server.projects}/{project['id']}").json() == project
            assert client.get(f"{server.url}/api/v1/health/live").status_code == 200
        assert "Traceback" not in server.log_text
    with serve(sqlite_url) as server, httpx2.Client(headers=headers(), timeout=10) as client:
        for project in acknowledged:
            assert client.get(f"{server.projects}/{project['id']}").json() == project
        assert client.post(server.projects, json={"name": "room again"}).status_code == 201


def test_a_read_only_file(sqlite_url: str, tmp_path: Path) -> None:
    """Projects in a read-only file can be read; writes get a 503."""
    file = tmp_path / "projkit.db"
    with serve(sqlite_url) as server, httpx2.Client(headers=headers()) as client:
        project = client.post(server.projects, json={"name": "A"}).json()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    file.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with serve(sqlite_url, prefix=UNPRIVILEGED) as server, httpx2.Client(headers=headers()) as client:
            assert client.get(f"{server.projects}/{project['id']}").json() == project
            for method, path in (("POST", server.projects), ("DELETE", f"{server.projects}/{project['id']}")):
                refused = client.request(method, path, json={"name": "B"} if method == "POST" else None)
                assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
            assert "Traceback" not in server.log_text
    finally:
        tmp_path.chmod(0o755)
