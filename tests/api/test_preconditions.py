"""Conditional requests (RFC 9110 §13)."""

import asyncio

import pytest

from tests.conftest import Client, OpenClient

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_mode(any_database_mode: str) -> str:
    """Run the tests in both database modes."""
    return any_database_mode


URL = "/api/v1/projects"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        *(('"1"', 304), ('W/"1"', 304), ("*", 304), ('"7", "1"', 304), ('W/"1-gzip"', 304)),
        *(('"2"', 200), ('""', 200), ('"01"', 200), ('"1-gzip-1"', 200)),
    ],
)
async def test_if_none_match(client: Client, value: str, status: int) -> None:
    """A GET of a known version gets a 304 with the entity tag and no content."""
    project = await client.project()
    response = await client.get(f"{URL}/{project['id']}", headers={"If-None-Match": value})
    assert (response.status_code, response.headers["etag"]) == (status, '"1"')
    assert bool(response.content) == (status == 200)


@pytest.mark.parametrize(
    ("value", "good"),
    [('"1"', True), ("*", True), ('"3",W/"1"', True), ('W/"1"', True), ('"2"', False), ('W/"2-gzip"', False)],
)
@pytest.mark.parametrize("action", ["put", "patch", "delete", "archive", "unarchive"])
async def test_if_match(client: Client, action: str, value: str, good: bool) -> None:
    """A change gets a 412 unless If-Match has the current version, weakened or not."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    headers = {"If-Match": value}
    if action in ("put", "patch"):
        response = await client.request(action, one, json={"name": "New"}, headers=headers)
    elif action == "delete":
        response = await client.delete(one, headers=headers)
    else:
        response = await client.post(f"{one}/{action}", headers=headers)
    if good:
        assert response.status_code in (200, 204)
    else:
        assert (response.status_code, response.json()["code"]) == (412, "precondition_failed")
        assert response.json()["detail"] == "The project has changed since you read it."
        assert (await client.get(one)).json() == project


@pytest.mark.parametrize("suffix", ["-gzip", "--gzip", ";gzip", ":br", "-br", "-zstd", "-x-gzip", "-df"])
@pytest.mark.parametrize("weak", ["", "W/"])
async def test_tags_with_the_suffix_of_a_proxy(client: Client, suffix: str, weak: str) -> None:
    """A tag to which a proxy has appended the encoding counts as the version that the kit issued."""
    one = f"{URL}/{(await client.project())['id']}"
    for version, status in ((1, 200), (1, 412), (2, 200)):
        headers = {"If-Match": f'{weak}"{version}{suffix}"'}
        content = {"name": f"after {version} {status}"}
        assert (await client.put(one, json=content, headers=headers)).status_code == status


@pytest.mark.parametrize(
    "value", ['"686897696a7c876b7e"', 'W/"0"', '"01"', '"1-copy", "x"', f'"{"9" * 30}"', '""']
)
async def test_tags_that_are_not_the_kits(client: Client, value: str) -> None:
    """The 412 for tags that cannot be the kit's does not claim that the project has changed."""
    one = f"{URL}/{(await client.project())['id']}"
    response = await client.put(one, json={"name": "New"}, headers={"If-Match": value})
    assert (response.status_code, response.json()["code"]) == (412, "precondition_failed")
    assert "No entity tag in If-Match was issued for a project" in response.json()["detail"]
    assert "changed" not in response.json()["title"]


@pytest.mark.parametrize("value", ["*", 'W/"1"'])
async def test_if_none_match_on_a_change(client: Client, value: str) -> None:
    """A change that If-None-Match excludes gets a 412 that says so."""
    one = f"{URL}/{(await client.project())['id']}"
    response = await client.put(one, json={"name": "New"}, headers={"If-None-Match": value})
    assert response.status_code == 412
    assert response.json()["detail"] == "The project exists in a version that If-None-Match excludes."
    other = await client.put(one, json={"name": "New"}, headers={"If-None-Match": '"7"'})
    assert other.status_code == 200


@pytest.mark.parametrize("deleted", [True, False])
async def test_if_match_on_restore(client: Client, deleted: bool) -> None:
    """Restoring also requires the version in If-Match."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    if deleted:
        await client.delete(one)
    assert (await client.post(f"{one}/restore", headers={"If-Match": '"9"'})).status_code == 412
    version = 2 if deleted else 1
    assert (await client.post(f"{one}/restore", headers={"If-Match": f'"{version}"'})).status_code == 200


@pytest.mark.parametrize("value", [',"1"', '"7", , "1"', '"7" ,"1", ,'])
async def test_empty_members_of_a_list(client: Client, value: str) -> None:
    """Empty members of a list of entity tags are ignored (RFC 9110 §5.6.1.2)."""
    one = f"{URL}/{(await client.project())['id']}"
    assert (await client.get(one, headers={"If-None-Match": value})).status_code == 304


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("value", ["1", '"1', 'w/"1"', '"1" "2"', "", ",", '"a b"', "*, *", "*,"])
async def test_malformed_entity_tags(client: Client, header: str, value: str) -> None:
    """A malformed list of entity tags gets a 422 that names the header."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    response = await client.request(
        "PUT" if header == "If-Match" else "GET", one, headers={header: value}, json={"name": "x"}
    )
    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == header


async def test_if_match_can_be_required(open_client: OpenClient) -> None:
    """With REQUIRE_IF_MATCH, an edit without If-Match gets a 428; a deletion does not require it."""
    async with open_client(require_if_match=True) as client:
        project = await client.project()
        one = f"{URL}/{project['id']}"
        for response in (
            await client.put(one, json={"name": "x"}),
            await client.patch(one, json={"name": "x"}),
        ):
            assert (response.status_code, response.json()["code"]) == (428, "precondition_required")
        assert (await client.put(one, json={"name": "x"}, headers={"If-Match": '"1"'})).status_code == 200
        assert (await client.delete(one)).status_code == 204


async def test_if_none_match_on_edits(client: Client) -> None:
    """If-None-Match on an edit rejects the versions in it (RFC 9110 §13.1.2)."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    for tag, status in (('"1"', 412), ("*", 412), ('"2"', 200)):
        response = await client.patch(one, json={"name": "x"}, headers={"If-None-Match": tag})
        assert response.status_code == status


async def test_concurrent_conditional_writes(client: Client) -> None:
    """Of several concurrent writes to one version, exactly one succeeds."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    for version in range(1, 6):
        responses = await asyncio.gather(
            *(
                client.put(one, json={"name": f"writer {number}"}, headers={"If-Match": f'"{version}"'})
                for number in range(8)
            )
        )
        assert sorted(response.status_code for response in responses) == [200] + [412] * 7
        winner = next(response for response in responses if response.status_code == 200)
        assert (await client.get(one)).json() == winner.json()


async def test_concurrent_unconditional_writes(client: Client) -> None:
    """Concurrent patches without If-Match all succeed, and no change is lost."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    patches = [{"metadata": {str(number): number}} for number in range(20)]
    responses = await asyncio.gather(*(client.patch(one, json=patch) for patch in patches))
    assert [response.status_code for response in responses] == [200] * 20
    assert (await client.get(one)).json()["metadata"] == {str(number): number for number in range(20)}


async def test_concurrent_idempotent_changes(client: Client) -> None:
    """Concurrent requests to archive, unarchive or restore all succeed, and it happens once."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    for action, version in (("archive", 2), ("unarchive", 3), ("restore", 5)):
        if action == "restore":
            assert (await client.delete(one)).status_code == 204
        responses = await asyncio.gather(*(client.post(f"{one}/{action}") for _ in range(20)))
        assert {(response.status_code, response.json()["version"]) for response in responses} == {
            (200, version)
        }
