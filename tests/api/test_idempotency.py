"""A project is created at most once per ``Idempotency-Key``."""

import asyncio
from datetime import timedelta

import pytest

from tests.conftest import Client, Clock

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_mode(any_database_mode: str) -> str:
    """Run the tests in both database modes."""
    return any_database_mode


URL = "/api/v1/projects"


async def test_same_key_and_body_replays(client: Client) -> None:
    """The same key and the same JSON value return the first response again, even after the project has changed."""
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
    """Another body with the same key is rejected."""
    headers = {"Idempotency-Key": "k"}
    await client.post(URL, json={"name": "A"}, headers=headers)
    response = await client.post(URL, json={"name": "B"}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
    assert response.json()["errors"][0]["parameter"] == "Idempotency-Key"


async def test_keys_belong_to_their_owner_and_expire(client: Client, clock: Clock) -> None:
    """Keys are separate for each owner, and expire after 24 hours."""
    headers = {"Idempotency-Key": "k"}
    first = await client.post(URL, json={"name": "A"}, headers=headers)
    async with client.of("bob") as bob:
        other = await bob.post(URL, json={"name": "B"}, headers=headers)
    assert other.status_code == 201
    clock.now += timedelta(hours=24, seconds=1)
    later = await client.post(URL, json={"name": "C"}, headers=headers)
    assert later.status_code == 201
    assert later.json()["id"] != first.json()["id"]


async def test_rejected_bodies_use_no_key(client: Client) -> None:
    """A body that was rejected, or failed with a conflict, leaves the key unused."""
    await client.project(external_id="E")
    for body in ({"name": ""}, {"name": "A", "external_id": "E"}):
        assert (await client.post(URL, json=body, headers={"Idempotency-Key": "k"})).status_code in (409, 422)
    assert (await client.post(URL, json={"name": "A"}, headers={"Idempotency-Key": "k"})).status_code == 201


async def test_twenty_at_once_make_one_row(client: Client) -> None:
    """Of twenty concurrent requests with a key, one creates; the others get a 409 or its response."""
    responses = await asyncio.gather(
        *(client.post(URL, json={"name": "A"}, headers={"Idempotency-Key": "k"}) for _ in range(20))
    )
    statuses = {response.status_code for response in responses}
    assert statuses <= {201, 409}
    assert all(
        response.json()["code"] == "idempotency_key_in_use"
        for response in responses
        if response.status_code == 409
    )
    assert len({response.json()["id"] for response in responses if response.status_code == 201}) == 1
    assert len((await client.get(URL)).json()["items"]) == 1


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"tab\there", "ü".encode()])
async def test_malformed_keys(client: Client, key: bytes) -> None:
    """A key that is empty, too long or not printable ASCII is rejected."""
    response = await client.post(URL, json={"name": "A"}, headers=[(b"Idempotency-Key", key)])
    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == "Idempotency-Key"


async def test_repeated_keys(client: Client) -> None:
    """Two keys in one request are rejected."""
    response = await client.post(
        URL, json={"name": "A"}, headers=[(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"a")]
    )
    assert response.status_code == 422
