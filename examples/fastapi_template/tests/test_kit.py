"""The kit in the service."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.kit import kit
from app.main import app
from projkit import Principal
from projkit.hosts.fastapi import current_principal
from projkit.testing import bearer

PROJECTS = "/kit/api/v1/projects"


@pytest.fixture
def kit_token(client: TestClient, credentials: dict[str, str]) -> dict[str, str]:
    """Log the user in to the kit; return the headers of their requests."""
    body = {"username": credentials["email"], "password": credentials["password"]}
    response = client.post("/kit/api/v1/auth/login", json=body)
    client.cookies.clear()
    return {"Authorization": f"Bearer {response.json()['access_token']}"}


def test_one_user(client: TestClient, token: dict[str, str], kit_token: dict[str, str]) -> None:
    """A user has the same projects and items with a token of the service and one of the kit."""
    project = client.post(PROJECTS, json={"name": "Roof"}, headers=token)
    item = client.post("/api/v1/items", json={"title": "Lamp"}, headers=kit_token)
    for headers in (token, kit_token):
        assert client.get(PROJECTS, headers=headers).json()["items"] == [project.json()]
        assert client.get("/api/v1/items", headers=headers).json() == [item.json()]


def test_bad_logins(client: TestClient, credentials: dict[str, str]) -> None:
    """The kit refuses a wrong password, and a name that no user has."""
    for name in (credentials["email"], "nobody@example.com"):
        body = {"username": name, "password": "wrong horse battery"}
        assert client.post("/kit/api/v1/auth/login", json=body).status_code == 401


def test_deactivated(client: TestClient, token: dict[str, str], kit_token: dict[str, str]) -> None:
    """A user who is deactivated loses access at once, in the service and in the kit."""
    assert client.delete("/api/v1/users/me", headers=token).status_code == 204
    for headers in (token, kit_token):
        assert client.get(PROJECTS, headers=headers).status_code == 401
        assert client.get("/api/v1/items", headers=headers).status_code == 401


def test_strangers(client: TestClient) -> None:
    """A token of the kit for a subject who is no user of the service opens none of its pages."""
    assert client.get("/api/v1/items", headers=bearer(kit, "alice")).status_code == 401


@pytest.fixture
def alice(client: TestClient, credentials: dict[str, str], kit_token: dict[str, str]) -> Iterator[None]:
    """Replace the kit's credentials in the service's routes."""
    me = client.get("/api/v1/users/me", headers=kit_token).json()
    app.dependency_overrides[current_principal(kit)] = lambda: Principal(me["id"])
    yield
    app.dependency_overrides.clear()


def test_overrides(client: TestClient, credentials: dict[str, str], alice: None) -> None:
    """Tests replace the caller whom the kit finds."""
    assert client.get("/api/v1/users/me").json()["email"] == credentials["email"]


def test_one_scrape(client: TestClient, token: dict[str, str]) -> None:
    """The kit's metrics contain those of the service, and count the requests for both."""
    client.get("/api/v1/items", headers=token)
    client.get(PROJECTS, headers=token)
    scraped = client.get("/kit/metrics", headers=bearer(kit, "prometheus", ["metrics:read"])).text
    assert 'app_requests_total{method="GET",status="200"}' in scraped
    for path in ("/api/v1/items", PROJECTS):
        assert f'projkit_http_server_request_duration_seconds_count{{method="GET",route="{path}"' in scraped


def test_one_document(client: TestClient) -> None:
    """The OpenAPI document describes both."""
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/v1/items", PROJECTS} <= paths.keys()


def test_middlewares(client: TestClient) -> None:
    """The middlewares of the service apply to the kit."""
    origin = {"Origin": "http://localhost:5173"}
    live = "/kit/api/v1/health/live"
    assert client.get(live, headers=origin).headers["access-control-allow-origin"] == origin["Origin"]
    assert client.get(live, headers={"Host": "evil.example"}).status_code == 400
