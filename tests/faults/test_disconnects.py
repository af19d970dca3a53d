"""Clients that go away in the middle of anything leave no half write and no lost connection."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import asyncpg
import httpx2

from tests.faults.conftest import Server, headers, serve


def gone(server: Server, head: str, body: bytes, *, sent: int) -> None:
    """Sends a request, or the first ``sent`` bytes of its body, and hangs up with a reset."""
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), address.port or 80)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        lines = [f"{head} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers().items())]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[:sent])


def test_clients_that_hang_up(any_database_url: str) -> None:
    """400 clients hang up in mid-body or before the answer; rows are whole and all connections still serve."""
    body = json.dumps({"name": "whole", "tags": ["a", "b"], "description": "x" * 5000}).encode()
    with serve(any_database_url, PROJKIT_DATABASE_POOL_SIZE="3") as server:
        with ThreadPoolExecutor(8) as threads:
            for number in range(400):
                path = "/api/v1/projects"
                kind = number % 4
                if kind == 0:
                    threads.submit(gone, server, f"POST {path}", body, sent=len(body) // 2)
                elif kind == 1:
                    threads.submit(gone, server, f"POST {path}", body, sent=len(body))
                elif kind == 2:
                    threads.submit(gone, server, f"GET {path}?q=whole&total=true", b"", sent=0)
                else:
                    threads.submit(gone, server, f"GET {path}/stats/summary", b"", sent=0)
        asyncio.run(all_is_well(server))
        if any_database_url.startswith("postgresql"):
            assert asyncio.run(open_transactions(any_database_url)) == 0
        assert "Traceback" not in server.said, server.said


async def all_is_well(server: Server) -> None:
    """More requests at once than there are connections, all good; and no row but whole ones."""
    async with httpx2.AsyncClient(headers=headers(), timeout=10) as client:
        answers = await asyncio.gather(*(client.get(f"{server.projects}?limit=100") for _ in range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20
        made = await asyncio.gather(*(client.post(server.projects, json={"name": "new"}) for _ in range(20)))
        assert [answer.status_code for answer in made] == [201] * 20
        for project in answers[0].json()["items"]:
            assert (project["name"], len(project["description"])) == ("whole", 5000)
            assert project["tags"] == ["a", "b"]


async def open_transactions(url: str) -> int:
    """How many connections the server still holds in a transaction, or in more places than the pool has."""
    connection = await asyncpg.connect(url)
    try:
        states = [
            row["state"]
            for row in await connection.fetch(
                "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'projkit'"
            )
        ]
    finally:
        await connection.close()
    assert len(states) <= 3
    return len([state for state in states if state != "idle"])
