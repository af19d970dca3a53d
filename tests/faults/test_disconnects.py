"""Clients that disconnect at any time leave no partial write and no lost database connection."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import asyncpg
import httpx2

from tests.faults.conftest import Server, headers, serve


def send_and_reset(server: Server, head: str, body: bytes, *, sent: int) -> None:
    """Send a request with the first ``sent`` bytes of its body, and reset the connection."""
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), address.port or 80)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        lines = [f"{head} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers().items())]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[:sent])


def test_clients_that_disconnect(any_database_url: str) -> None:
    """400 clients disconnect in mid-body or before the response; rows are complete and all connections still work."""
    body = json.dumps({"name": "complete", "tags": ["a", "b"], "description": "x" * 5000}).encode()
    with serve(any_database_url, PROJKIT_DATABASE_POOL_SIZE="3") as server:
        with ThreadPoolExecutor(8) as threads:
            for number in range(400):
                path = "/api/v1/projects"
                kind = number % 4
                if kind == 0:
                    threads.submit(send_and_reset, server, f"POST {path}", body, sent=len(body) // 2)
                elif kind == 1:
                    threads.submit(send_and_reset, server, f"POST {path}", body, sent=len(body))
                elif kind == 2:
                    threads.submit(send_and_reset, server, f"GET {path}?q=complete&total=true", b"", sent=0)
                else:
                    threads.submit(send_and_reset, server, f"GET {path}/stats/summary", b"", sent=0)
        asyncio.run(check_server(server))
        if any_database_url.startswith("postgresql"):
            assert asyncio.run(open_transactions(any_database_url)) == 0
        assert "Traceback" not in server.log_text, server.log_text


async def check_server(server: Server) -> None:
    """Check that more concurrent requests than there are connections succeed, and that all rows are complete."""
    async with httpx2.AsyncClient(headers=headers(), timeout=10) as client:
        responses = await asyncio.gather(*(client.get(f"{server.projects}?limit=100") for _ in range(20)))
        assert [response.status_code for response in responses] == [200] * 20
        made = await asyncio.gather(*(client.post(server.projects, json={"name": "new"}) for _ in range(20)))
        assert [response.status_code for response in made] == [201] * 20
        for project in responses[0].json()["items"]:
            assert (project["name"], len(project["description"])) == ("complete", 5000)
            assert project["tags"] == ["a", "b"]


async def open_transactions(url: str) -> int:
    """Return the number of the server's connections that are in a transaction; check that the pool has not grown."""
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
