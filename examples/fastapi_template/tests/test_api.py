"""The service's own API."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from app.api import current_user
from app.main import app
from app.models import User


def test_users(client: TestClient, credentials: dict[str, str], token: dict[str, str]) -> None:
    """A user registers once, logs in with the right password, and is gone once deactivated."""
    assert client.post("/api/v1/users", json=credentials).status_code == 409
    wrong = {**credentials, "password": "wrong horse battery"}
    assert client.post("/api/v1/login", json=wrong).status_code == 401
    assert client.get("/api/v1/users/me", headers=token).json()["email"] == credentials["email"]
    assert client.delete("/api/v1/users/me", headers=token).status_code == 204
    assert client.get("/api/v1/users/me", headers=token).status_code == 401
    assert client.post("/api/v1/login", json=credentials).status_code == 401


@pytest.mark.parametrize("header", ["Bearer x", "Bearer " + "a.b.c"])
def test_bad_tokens(client: TestClient, header: str) -> None:
    """A token that the service has not signed is refused."""
    assert client.get("/api/v1/items", headers={"Authorization": header}).status_code == 401


def test_items(client: TestClient, token: dict[str, str]) -> None:
    """A user finds their items, and only those."""
    created = client.post("/api/v1/items", json={"title": "Lamp"}, headers=token)
    assert created.status_code == 201
    assert client.get("/api/v1/items", headers=token).json() == [created.json()]
    assert client.get(f"/api/v1/items/{created.json()['id']}", headers=token).json() == created.json()
    assert client.get(f"/api/v1/items/{uuid4()}", headers=token).status_code == 404


@pytest.fixture
def someone() -> Iterator[User]:
    """Replace the login by a user who is in no database."""
    user = User(email="someone@example.com", password_hash="")
    app.dependency_overrides[current_user] = lambda: user
    yield user
    app.dependency_overrides.clear()


def test_overrides(client: TestClient, someone: User) -> None:
    """Tests replace dependencies."""
    assert client.get("/api/v1/users/me").json() == {"id": str(someone.id), "email": someone.email}


def test_middlewares(client: TestClient) -> None:
    """CORS, allowed hosts and metrics work."""
    origin = {"Origin": "http://localhost:5173"}
    assert (
        client.get("/openapi.json", headers=origin).headers["access-control-allow-origin"] == origin["Origin"]
    )
    assert client.get("/openapi.json", headers={"Host": "evil.example"}).status_code == 400
    assert "app_requests_total" in client.get("/metrics").text
