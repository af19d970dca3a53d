"""Idempotency-Key: once is once."""

import asyncio
from datetime import timedelta

import pytest

from tests.conftest import Client, Clock

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_mode(any_database_mode: str) -> str:
    """These promises hold in both modes."""
    return any_database_mode


URL = "/api/v1/projects"


async def test_same_key_and_body_replays(client: Client) -> None:
    """The same key and the same JSON value give the first answer again, also after the project has changed."""
    headers = {"Idempotency-Key": "k 1"}
    first = await client.post(URL, json={"name": "A", "tags": ["x"]}, headers=headers)
    assert "idempotent-replayed" not in first.headers
    await client.patch(first.headers["location"], json={"name": "Changed"})
    again = await client.post(
        URL, content=b'{"tags" : ["x"], "name":"A"}', headers={**headers, "Content-Type": "application/json"}
    )
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.content == first.content
    for name in ("location", "etag"):
        assert again.headers[name] == first.headers[name]
    assert len((await client.get(URL)).json()["items"]) == 1


async def test_same_key_and_another_body(client: Client) -> None:
    """Another body under the same key is refused."""
    headers = {"Idempotency-Key": "k"}
    await client.post(URL, json={"name": "A"}, headers=headers)
    answer = await client.post(URL, json={"name": "B"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert answer.json()["errors"][0]["parameter"] == "Idempotency-Key"


async def test_keys_belong_to_their_owner_and_expire(client: Client, clock: Clock) -> None:
    """Another owner's same key is another key, and after 24 hours a key is free again."""
    headers = {"Idempotency-Key": "k"}
    first = await client.post(URL, json={"name": "A"}, headers=headers)
    async with client.of("bob") as bob:
        other = await bob.post(URL, json={"name": "B"}, headers=headers)
    assert other.status_code == 201
    clock.now += timedelta(hours=24, seconds=1)
    later = await client.post(URL, json={"name": "C"}, headers=headers)
    assert later.status_code == 201
    assert later.json()["id"] != first.json()["id"]


async def test_refused_bodies_use_no_key(client: Client) -> None:
    """A body that was refused, or failed on a conflict, leaves the key free."""
    await client.project(external_id="E")
    for body in ({"name": ""}, {"name": "A", "external_id": "E"}):
        assert (await client.post(URL, json=body, headers={"Idempotency-Key": "k"})).status_code in (409, 422)
    assert (await client.post(URL, json={"name": "A"}, headers={"Idempotency-Key": "k"})).status_code == 201


async def test_twenty_at_once_make_one_row(client: Client) -> None:
    """Of twenty clients with the same key one creates; the others are told to wait or get its answer."""
    answers = await asyncio.gather(
        *(client.post(URL, json={"name": "A"}, headers={"Idempotency-Key": "k"}) for _ in range(20))
    )
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {201, 409}
    assert all(
        answer.json()["code"] == "idempotency_key_in_use" for answer in answers if answer.status_code == 409
    )
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert len((await client.get(URL)).json()["items"]) == 1


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"tab\there", "ü".encode()])
async def test_malformed_keys(client: Client, key: bytes) -> None:
    """A key that is empty, too long or not printable ASCII is refused."""
    answer = await client.post(URL, json={"name": "A"}, headers=[(b"Idempotency-Key", key)])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "Idempotency-Key"


async def test_repeated_keys(client: Client) -> None:
    """Two keys in one request are refused."""
    answer = await client.post(
        URL, json={"name": "A"}, headers=[(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"a")]
    )
    assert answer.status_code == 422
