"""The life cycle of a project, as a client of a mounted kit sees it."""

import re

import httpx2


def live(client: httpx2.Client, prefix: str, proxy: str = "") -> None:
    """Create, read, change, list by page and delete; check every URL as the client sees it."""
    projects = f"{prefix}/api/v1/projects"
    made = client.post(projects, json={"name": "A", "tags": ["x"]})
    assert made.status_code == 201, made.text
    location = made.headers["location"]
    assert location == f"{proxy}{projects}/{made.json()['id']}"
    at = location.removeprefix(proxy)
    read = client.get(at)
    assert (read.status_code, read.json()) == (200, made.json())
    assert client.get(at, headers={"If-None-Match": read.headers["etag"]}).status_code == 304
    put = client.put(at, json={"name": "B"}, headers={"If-Match": read.headers["etag"]})
    assert (put.status_code, put.json()["name"], put.json()["version"]) == (200, "B", 2)
    assert client.patch(at, json={"status": "active"}).json()["status"] == "active"
    assert client.get(f"{projects}/stats/summary").json()["total"] == 1

    for name in "CD":
        assert client.post(projects, json={"name": name}).status_code == 201
    seen, page = [], f"{projects}?limit=1&sort=name"
    while page:
        answer = client.get(page)
        assert answer.status_code == 200, answer.text
        seen += [each["name"] for each in answer.json()["items"]]
        next_link = re.search(r'<([^>]+)>; rel="next"', answer.headers.get("link", ""))
        page = ""
        if next_link:
            assert next_link[1].startswith(f"{proxy}{projects}?"), next_link[1]
            page = next_link[1].removeprefix(proxy)
    assert seen == ["B", "C", "D"]

    assert client.delete(at).status_code == 204
    gone = client.get(at)
    assert (gone.status_code, gone.headers["content-type"]) == (404, "application/problem+json")
    assert client.post(f"{at}/restore").status_code == 200
    for path, status in ((f"{projects}/a/b/c", 404), (f"{projects}/", 404)):
        lost = client.get(path)
        assert (lost.status_code, lost.headers["content-type"]) == (status, "application/problem+json"), (
            lost.text
        )
    wrong = client.request("TRACE", projects)
    assert wrong.status_code in {400, 405}
    assert client.get(projects, headers={"Authorization": ""}).status_code == 401
    assert client.get(f"{prefix}/api/v1/health/ready").status_code == 200
    servers = client.get(f"{prefix}/api/v1/openapi.json").json()
    assert servers["openapi"].startswith("3.1")
    assert client.get(f"{prefix}/api/v1/docs").status_code == 200
    for project in client.get(projects).json()["items"]:
        assert client.delete(f"{projects}/{project['id']}").status_code == 204
