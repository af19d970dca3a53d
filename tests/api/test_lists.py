"""Lists: filters, sort orders and pages."""

import asyncio
import itertools
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projkit.clock import utc_now
from projkit.db.connect import opened_database
from projkit.http.cursor import CursorCodec
from projkit.identity import Principal
from projkit.projects import service
from projkit.projects.schemas import ProjectInput
from projkit.projects.service import ProjectService
from projkit.projects.statements import project_statements
from tests.conftest import PATIENT, Client, settings_for

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_mode(any_database_mode: str) -> str:
    """Run the tests in both database modes."""
    return any_database_mode


URL = "/api/v1/projects"


async def names(client: Client, query: str) -> list[str]:
    """Return the names in a list."""
    response = await client.get(f"{URL}?{query}")
    assert response.status_code == 200, response.text
    return [item["name"] for item in response.json()["items"]]


async def all_pages(client: Client, query: str) -> list[dict[str, Any]]:
    """Return the items of all pages."""
    items: list[dict[str, Any]] = []
    path = f"{URL}?{query}"
    for _ in range(200):
        response = await client.get(path)
        assert response.status_code == 200, response.text
        items += response.json()["items"]
        link = response.headers.get("link")
        assert (link is None) == (response.json()["next_cursor"] is None)
        if link is None:
            return items
        path, _, relation = link.partition(">")
        assert relation == '; rel="next"'
        path = path.removeprefix("<")
    raise AssertionError("the list does not end")


async def test_an_empty_list(client: Client) -> None:
    """An empty list is an empty page without a next one."""
    response = await client.get(URL)
    assert response.json() == {"items": [], "next_cursor": None, "total": None}
    assert "link" not in response.headers


FILTERS = [
    ("status=active", "a"),
    ("status=active&status=on_hold", "ab"),
    ("priority=low", "a"),
    ("priority=low&priority=critical", "ac"),
    ("tag=web", "ab"),
    ("tag=web&tag=x%25", "abc"),
    ("tag=WEB", ""),
    ("status=active&tag=x%25", ""),
    ("q=ALPHA", "a"),
    ("q=stra%C3%9Fe", "b"),
    ("q=STRASSE", "b"),
    ("q=%25", "c"),
    ("q=_", "c"),
    ("q=%5C", "c"),
    ("q=%C3%89t%C3%A9", "d"),
    ("q=E%CC%81te%CC%81", "d"),
    ("q=", "abcd"),
    ("archived=true", "e"),
    ("archived=any", "abcde"),
    ("archived=false", "abcd"),
    ("external_id=E-1", "a"),
    ("external_id=e-1", ""),
    ("due_after=2026-01-01", "bd"),
    ("due_before=2026-03-01", "ab"),
    ("due_after=2026-01-01&due_before=2026-03-01", "b"),
    ("created_after=2026-06-15T12:00:00.123457Z&created_before=2026-06-15T12:00:00.123460Z", "bc"),
    ("created_after=2026-06-15T14:00:00.123457%2B02:00&created_before=2026-06-15T12:00:00.123460Z", "bc"),
    ("updated_after=2030-01-01T00:00:00Z", ""),
    ("updated_before=2030-01-01T00:00:00Z", "abcd"),
]


async def test_filters(client: Client, subtests: pytest.Subtests) -> None:
    """Each filter selects the matching projects, and several together those that match all."""
    await client.project(
        name="a alpha",
        status="active",
        priority="low",
        tags=["web"],
        external_id="E-1",
        due_date="2026-01-01",
    )
    await client.project(
        name="b", description="Straße", status="on_hold", tags=["b", "web"], due_date="2026-02-01"
    )
    await client.project(name="c 100% _x\\", priority="critical", tags=["x%"])
    await client.project(name="d été", due_date="2026-03-01")
    archived = await client.project(name="e")
    await client.post(f"{URL}/{archived['id']}/archive")
    for query, expected in FILTERS:
        with subtests.test(query=query):
            listed = await names(client, f"{query}&sort=name")
            assert "".join(name[0] for name in listed) == expected


PROJECTS: list[dict[str, Any]] = [
    {"name": name, "priority": priority, "due_date": due}
    for name, priority, due in (
        ("b", "low", "2026-05-01"), ("B", "critical", None), ("ä", "high", "2026-05-01"), ("a", "medium", None),
        ("😀", "low", "2025-01-01"), ("\uffee", "low", None), ("b", "medium", "2026-05-01"),
        ("_", "critical", "2027-01-01"),
    )
]  # fmt: skip
RANK = ["low", "medium", "high", "critical"]


@pytest.mark.parametrize("key", ["created_at", "updated_at", "name", "due_date", "priority"])
async def test_orders(client: Client, subtests: pytest.Subtests, key: str) -> None:
    """Both databases sort as the contract says, with any page size: by code points, by rank, nulls last."""
    made = [await client.project(**fields) for fields in PROJECTS]
    await client.patch(f"{URL}/{made[2]['id']}", json={"description": "touched"})

    def rank(item: dict[str, Any]) -> Any:
        value = RANK.index(item["priority"]) if key == "priority" else item[key]
        return (value, item["id"])

    for descending, limit in itertools.product((False, True), (1, 3, 100)):
        with subtests.test(descending=descending, limit=limit):
            items = await all_pages(client, f"sort={'-' if descending else ''}{key}&limit={limit}")
            with_key = [item for item in items if item[key] is not None]
            without = [item for item in items if item[key] is None]
            assert items == with_key + without
            assert with_key == sorted(with_key, key=rank, reverse=descending)
            ids = [item["id"] for item in without]
            assert ids == sorted(ids, reverse=descending)
            assert {item["id"] for item in items} == {project["id"] for project in made}
            assert len(items) == len(made)


@pytest.mark.parametrize("key", ["created_at", "updated_at", "name", "due_date", "priority"])
async def test_archived_projects_among_others(client: Client, subtests: pytest.Subtests, key: str) -> None:
    """archived=any lists and counts archived projects and others as one list, in the same order, with any page size."""
    made = [await client.project(**fields) for fields in PROJECTS]
    archived = {project["id"] for project in made[::2]}
    for identifier in archived:
        await client.post(f"{URL}/{identifier}/archive")

    def rank(item: dict[str, Any]) -> Any:
        value = RANK.index(item["priority"]) if key == "priority" else item[key]
        return (value, item["id"])

    for descending, limit in itertools.product((False, True), (1, 3, 100)):
        with subtests.test(descending=descending, limit=limit):
            query = f"archived=any&sort={'-' if descending else ''}{key}&limit={limit}"
            items = await all_pages(client, query)
            with_key = [item for item in items if item[key] is not None]
            assert items == with_key + [item for item in items if item[key] is None]
            assert with_key == sorted(with_key, key=rank, reverse=descending)
            assert {item["id"] for item in items if item["archived_at"]} == archived
            assert len({item["id"] for item in items}) == len(items) == len(made)
            for total in ("true", "exact"):
                page = (await client.get(f"{URL}?{query}&total={total}")).json()
                assert (page["total"], page["total_is_capped"]) == (len(made), False)


async def test_the_default_order_is_newest_first(client: Client) -> None:
    """Without ``sort`` the newest project comes first."""
    for name in "abc":
        await client.project(name=name)
    assert await names(client, "") == ["c", "b", "a"]


async def test_total_counts_all_matches(client: Client) -> None:
    """total counts all matching projects, on every page."""
    for number in range(5):
        await client.project(name=f"p{number}", status="active" if number else "planning")
    first = (await client.get(f"{URL}?status=active&total=true&limit=3")).json()
    assert (first["total"], len(first["items"])) == (4, 3)
    second = (
        await client.get(f"{URL}?status=active&total=true&limit=3&cursor={first['next_cursor']}")
    ).json()
    assert (second["total"], len(second["items"]), second["next_cursor"]) == (4, 1, None)
    exact = (await client.get(f"{URL}?status=active&total=exact&limit=3")).json()
    assert exact == {**first, "total_is_capped": False}
    without = (await client.get(f"{URL}?total=false")).json()
    assert without["total"] is None
    assert "total_is_capped" not in without


async def test_total_is_capped(client: Client, emptied_database_url: str) -> None:
    """total=true counts up to 10,000 and says if there are more; total=exact counts them all."""

    async def add(count: int) -> None:
        alice, content = Principal("alice"), ProjectInput(name="A project")
        async with opened_database(settings_for(emptied_database_url, **PATIENT)) as (database, tables):
            projects = ProjectService(database, tables, cursors=CursorCodec.throwaway(), clock=utc_now)
            rows = [{**projects.new_row(alice, content), "archived_at": None} for _ in range(count)]
            insert = project_statements(tables).insert_imported
            await database.transact(lambda transaction: transaction.execute_many(insert, rows))

    async def total(value: str) -> tuple[int, bool]:
        page = (await client.get(f"{URL}?limit=1&status=planning&total={value}")).json()
        return page["total"], page["total_is_capped"]

    await add(10_000)
    assert await total("true") == await total("exact") == (10_000, False)
    await add(1)
    assert await total("true") == (10_000, True)
    assert await total("exact") == (10_001, False)


async def test_an_exact_count_has_a_time_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exact count that takes too long is rejected with advice, and the database remains available."""
    await client.project()
    with monkeypatch.context() as patch:
        patch.setattr(service, "EXACT_COUNT_SECONDS", 0)
        refused = await client.get(f"{URL}?total=exact")
    assert (refused.status_code, refused.json()["code"]) == (422, "query_too_costly")
    (error,) = refused.json()["errors"]
    assert error["parameter"] == "total"
    assert "total=true" in error["detail"]
    assert (await client.get(f"{URL}?total=exact")).json()["total"] == 1


async def test_next_link_keeps_the_query(client: Client) -> None:
    """The Link header repeats the filters, escaped, with the cursor of the next page."""
    for _ in range(2):
        await client.project(name="a&b=c +ü", tags=["x y"])
    response = await client.get(URL, params=[("tag", "x y"), ("q", "a&b=c +ü"), ("limit", "1")])
    target = response.headers["link"].partition(">")[0].removeprefix("<")
    pairs = dict(parse_qsl(urlsplit(target).query))
    assert pairs == {"tag": "x y", "q": "a&b=c +ü", "limit": "1", "cursor": response.json()["next_cursor"]}
    assert len((await client.get(target)).json()["items"]) == 1


async def test_a_partly_escaped_query(client: Client) -> None:
    """Bytes that the client did not escape are read alike in the list and in its Link header."""

    async def unescaping(scope: Any, receive: Any, send: Any) -> None:
        raw = scope["query_string"].replace(b"%C3", b"\xc3")
        await client.app({**scope, "query_string": raw}, receive, send)

    for number in range(2):
        await client.project(name=f"\u00e9{number}")
    async with Client(unescaping, client.kit_settings) as unescaped:
        response = await unescaped.get(f"{URL}?limit=1&q=%C3%A9")
    assert response.status_code == 200
    target = response.headers["link"].partition(">")[0].removeprefix("<")
    assert dict(parse_qsl(urlsplit(target).query))["q"] == "\u00e9"
    assert [each["name"] for each in (await client.get(target)).json()["items"]] == ["\u00e90"]


@pytest.mark.parametrize(
    "other", ["sort=name", "status=active", "archived=any", "q=x", "external_id=a", "tag=a"]
)
async def test_a_cursor_belongs_to_its_list(client: Client, other: str) -> None:
    """A cursor of another filter, order or owner is rejected; limit and total can change."""
    for _ in range(2):
        await client.project()
    cursor = (await client.get(f"{URL}?limit=1")).json()["next_cursor"]
    refused = await client.get(f"{URL}?{other}&cursor={cursor}")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_cursor")
    assert refused.json()["errors"][0]["parameter"] == "cursor"
    assert (await client.get(f"{URL}?limit=5&total=true&cursor={cursor}")).status_code == 200
    async with client.of("bob") as bob:
        assert (await bob.get(f"{URL}?cursor={cursor}")).status_code == 422


async def test_forged_cursors(client: Client) -> None:
    """A cursor with any character changed, removed or added is rejected."""
    for _ in range(2):
        await client.project()
    cursor = (await client.get(f"{URL}?limit=1")).json()["next_cursor"]
    forged = [cursor[:-1], cursor + "A", cursor[1:], "", "A", "é", "a" * 5000, cursor.swapcase(), "=" * 8]
    forged += [
        cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        for at in range(0, len(cursor), 7)
    ]
    for value in forged:
        response = await client.get(URL, params={"cursor": value})
        assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor"), value


BAD_QUERIES: list[tuple[str, str, str | None]] = [
    ("colour=red", "colour", "unknown_parameter"),
    ("limit=0", "limit", "greater_than_equal"),
    ("limit=101", "limit", "less_than_equal"),
    ("limit=1e1", "limit", "limit_format"),
    ("limit=+5", "limit", "limit_format"),
    ("limit=9999999999999999999999", "limit", "limit_format"),
    ("limit=", "limit", "limit_format"),
    ("limit=%D9%A1", "limit", "limit_format"),
    ("limit=1&limit=2", "limit", "repeated_parameter"),
    ("status=done", "status", "enum"),
    ("priority=urgent", "priority", "enum"),
    ("archived=maybe", "archived", "literal_error"),
    ("total=1", "total", "flag_format"),
    ("sort=owner_id", "sort", "literal_error"),
    ("sort=--name", "sort", "literal_error"),
    ("q=" + "x" * 201, "q", "string_too_long"),
    ("q=%00", "q", "string_contains_nul"),
    ("q=%ff", "q", "invalid_encoding"),
    ("q=%ed%a0%80", "q", "invalid_encoding"),
    ("tag=", "tag", "string_too_short"),
    ("created_after=yesterday", "created_after", None),
    ("created_after=2026-01-01", "created_after", None),
    ("created_after=2026-01-01T00:00:00", "created_after", None),
    ("created_after=0000-01-01T00:00:00Z", "created_after", None),
    ("created_after=9999-12-31T23:59:59-23:59", "created_after", None),
    ("created_after=1750000000", "created_after", None),
    ("due_after=2026-02-30", "due_after", None),
    ("due_after=20260101", "due_after", None),
    ("&".join(f"tag=t{n}" for n in range(51)), "tag", "too_long"),
]


async def test_bad_queries(client: Client, subtests: pytest.Subtests) -> None:
    """An unknown or invalid parameter gets a 422 that names it."""
    for query, parameter, code in BAD_QUERIES:
        with subtests.test(query=query[:100]):
            response = await client.get(f"{URL}?{query}")
            assert response.status_code == 422, response.text
            assert response.json()["title"] == "The query parameters have errors"
            error = response.json()["errors"][0]
            assert error["parameter"] == parameter
            assert code is None or error["code"] == code


async def test_ten_thousand_parameters(client: Client) -> None:
    """Very many parameters are rejected with one short error."""
    for query in ("&".join("tag=a" for _ in range(10_000)), "&".join(map(str, range(10_000)))):
        response = await client.get(f"{URL}?{query}")
        assert response.status_code == 422
        assert len(response.json()["errors"]) == 1


async def test_pages_during_changes(client: Client) -> None:
    """Unchanged projects are neither lost nor repeated while others are created and deleted between pages."""
    stay = [await client.project(name=f"stay {number:02}") for number in range(20)]
    go = [await client.project(name=f"go {number:02}") for number in range(10)]
    seen: list[str] = []
    path = f"{URL}?sort=name&limit=4"
    for turn in itertools.count():
        response = (await client.get(path)).json()
        seen += [item["id"] for item in response["items"]]
        if response["next_cursor"] is None:
            break
        path = f"{URL}?sort=name&limit=4&cursor={response['next_cursor']}"
        await client.project(name=f"{'az'[turn % 2]} new")
        if go:
            await client.delete(f"{URL}/{go.pop()['id']}")
    assert len(seen) == len(set(seen))
    assert [each for each in seen if each in {project["id"] for project in stay}] == [p["id"] for p in stay]


async def test_equal_keys_page_by_id(client: Client) -> None:
    """Projects with equal sort keys are paginated by id."""
    made = await asyncio.gather(*(client.project(name="same") for _ in range(25)))
    for sort in ("name", "-name", "priority", "-due_date"):
        items = await all_pages(client, f"sort={sort}&limit=7")
        ids = [item["id"] for item in items]
        assert ids == sorted((project["id"] for project in made), reverse=sort.startswith("-"))


FIELDS = st.fixed_dictionaries({
    "name": st.sampled_from(["one", "Two", "ONE two"]),
    "status": st.sampled_from(["planning", "active", "completed"]),
    "priority": st.sampled_from(RANK),
    "tags": st.lists(st.sampled_from("abc"), max_size=3, unique=True),
    "due_date": st.sampled_from([None, "2026-01-01", "2026-06-01"]),
})  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    projects=st.lists(FIELDS, max_size=8),
    status=st.lists(st.sampled_from(["planning", "active"]), max_size=2),
    tags=st.lists(st.sampled_from("ab"), max_size=2),
    text=st.sampled_from(["", "one", "TWO"]),
    after=st.sampled_from(["", "2025-12-31", "2026-01-01"]),
)
async def test_any_combination_of_filters(
    client: Client,
    projects: list[dict[str, Any]],
    status: list[str],
    tags: list[str],
    text: str,
    after: str,
) -> None:
    """Any combination of filters selects the same projects as the same conditions in Python."""
    query = "&".join(
        [*(f"status={each}" for each in status), *(f"tag={each}" for each in tags), f"q={text}", "limit=2"]
        + ([f"due_after={after}"] if after else [])
    )
    async with client.of(f"owner {uuid4()}") as owner:
        made = [await owner.project(**each) for each in projects]
        expected = {
            project["id"]
            for project in made
            if (not status or project["status"] in status)
            and (not tags or set(tags) & set(project["tags"]))
            and text.lower() in project["name"].lower()
            and (not after or (project["due_date"] or "") > after)
        }
        for sort in ("name", "-priority", "due_date", "-updated_at"):
            listed = [item["id"] for item in await all_pages(owner, f"{query}&sort={sort}")]
            assert len(listed) == len(expected)
            assert set(listed) == expected
