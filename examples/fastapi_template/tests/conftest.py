"""A migrated database, which ``APP_DATABASE_URL`` names, and clients."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from fastapi.testclient import TestClient

from app import security
from app.main import app
from app.settings import settings

ROOT = Path(__file__).parents[1]
security.hasher = PasswordHasher.from_parameters(CHEAPEST)


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    """Start the service on a database with the tables of both."""
    command.upgrade(Config(ROOT / "alembic.ini"), "head")
    variables = {**os.environ, "PROJKIT_DATABASE_URL": settings.database_url}
    subprocess.run([sys.executable, "-m", "projkit", "migrate"], env=variables, check=True)
    with TestClient(app) as client:
        yield client


@pytest.fixture
def credentials(client: TestClient) -> dict[str, str]:
    """Register a user for this test."""
    credentials = {"email": f"{time.time_ns()}@example.com", "password": "correct horse battery"}
    assert client.post("/api/v1/users", json=credentials).status_code == 201
    return credentials


@pytest.fixture
def token(client: TestClient, credentials: dict[str, str]) -> dict[str, str]:
    """Log the user in; return the headers of their requests."""
    response = client.post("/api/v1/login", json=credentials)
    return {"Authorization": f"Bearer {response.json()['access_token']}"}
