"""Conditional requests: nobody overwrites what they have not seen."""

import asyncio

import pytest

from tests.conftest import Client, OpenClient

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_mode(any_database_mode: str) -> str:
    """These promises hold in both modes."""
    return any_database_mode


URL = "/api/v1/projects"


@pytest.mark.parametrize(
    ("value", "status"),
    [('"1"', 304), ('W/"1"', 304), ("*", 304), ('"7", "1"', 304), ('"2"', 200), ('""', 200)],
)
async def test_if_none_match(client: Client, value: str, status: int) -> None:
    """A read of what is known already is 304, with the tag and no content."""
    project = await client.project()
    answer = await client.get(f"{URL}/{project['id']}", headers={"If-None-Match": value})
    assert (answer.status_code, answer.headers["etag"]) == (status, '"1"')
    assert bool(answer.content) == (status == 200)


@pytest.mark.parametrize(
    ("value", "good"), [('"1"', True), ("*", True), ('"3","1"', True), ('"2"', False), ('W/"1"', False)]
)
@pytest.mark.parametrize("action", ["put", "patch", "delete", "archive", "unarchive"])
async def test_if_match(client: Client, action: str, value: str, good: bool) -> None:
    """A change is refused with 412 unless If-Match names the present version, strongly compared."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    headers = {"If-Match": value}
    if action in ("put", "patch"):
        answer = await client.request(action, one, json={"name": "New"}, headers=headers)
    elif action == "delete":
        answer = await client.delete(one, headers=headers)
    else:
        answer = await client.post(f"{one}/{action}", headers=headers)
    if good:
        assert answer.status_code in (200, 204)
    else:
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
        assert (await client.get(one)).json() == project


@pytest.mark.parametrize("deleted", [True, False])
async def test_if_match_on_restore(client: Client, deleted: bool) -> None:
    """Restoring, too, happens only at the version that was named."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    if deleted:
        await client.delete(one)
    assert (await client.post(f"{one}/restore", headers={"If-Match": '"9"'})).status_code == 412
    version = 2 if deleted else 1
    assert (await client.post(f"{one}/restore", headers={"If-Match": f'"{version}"'})).status_code == 200


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("value", ["1", '"1', 'w/"1"', '"1" "2"', "", '"a b"', "*, *"])
async def test_malformed_entity_tags(client: Client, header: str, value: str) -> None:
    """What is no list of entity tags is a 422 that names the header."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    answer = await client.request(
        "PUT" if header == "If-Match" else "GET", one, headers={header: value}, json={"name": "x"}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == header


async def test_if_match_can_be_required(open_client: OpenClient) -> None:
    """With REQUIRE_IF_MATCH an edit without If-Match is 428; a deletion needs none."""
    async with open_client(require_if_match=True) as client:
        project = await client.project()
        one = f"{URL}/{project['id']}"
        for answer in (
            await client.put(one, json={"name": "x"}),
            await client.patch(one, json={"name": "x"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (428, "precondition_required")
        assert (await client.put(one, json={"name": "x"}, headers={"If-Match": '"1"'})).status_code == 200
        assert (await client.delete(one)).status_code == 204


async def test_an_edit_may_be_for_a_project_that_has_changed(client: Client) -> None:
    """If-None-Match on an edit refuses the versions that it names (RFC 9110 §13.1.2)."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    for tag, status in (('"1"', 412), ("*", 412), ('"2"', 200)):
        answer = await client.patch(one, json={"name": "x"}, headers={"If-None-Match": tag})
        assert answer.status_code == status


async def test_of_two_writers_one_wins(client: Client) -> None:
    """Of many who write at the same version exactly one succeeds."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    for version in range(1, 6):
        answers = await asyncio.gather(
            *(
                client.put(one, json={"name": f"writer {number}"}, headers={"If-Match": f'"{version}"'})
                for number in range(8)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
        winner = next(answer for answer in answers if answer.status_code == 200)
        assert (await client.get(one)).json() == winner.json()


async def test_unconditional_writers_all_get_their_turn(client: Client) -> None:
    """However many patch different fields at once without If-Match, nobody is refused and nothing is lost."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    patches = [{"metadata": {str(number): number}} for number in range(20)]
    answers = await asyncio.gather(*(client.patch(one, json=patch) for patch in patches))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert (await client.get(one)).json()["metadata"] == {str(number): number for number in range(20)}


async def test_repeatable_changes_at_once(client: Client) -> None:
    """Of many who archive, unarchive or restore at once all are told that it is done, and it is done once."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    for action, version in (("archive", 2), ("unarchive", 3), ("restore", 5)):
        if action == "restore":
            assert (await client.delete(one)).status_code == 204
        answers = await asyncio.gather(*(client.post(f"{one}/{action}") for _ in range(20)))
        assert {(answer.status_code, answer.json()["version"]) for answer in answers} == {(200, version)}
