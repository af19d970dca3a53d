"""The examples work unchanged."""

from pathlib import Path

import pytest

from tests.hosts.conftest import ROOT, Served, started
from tests.hosts.life import live

GUARDED = {"django_app", "fastapi_app", "litestar_app", "quart_app", "starlette_app"}
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*_app.py"))


def a_guarded_page(served: Served) -> None:
    """Check the host's page that requires a scope."""
    with served.client() as alice, served.client(scopes=()) as scopeless:
        assert alice.get("/whoami").json() == {"subject": "alice"}
        refused = scopeless.get("/whoami")
        assert (refused.status_code, "insufficient_scope" in refused.headers["www-authenticate"]) == (
            403,
            True,
        )
        assert alice.get("/whoami", headers={"Authorization": ""}).status_code == 401


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example: str, tmp_path: Path, any_database_url: str) -> None:
    """Each example serves its own page, guards another, and serves projects at /kit, on both databases."""
    variables = {"PROJKIT_DATABASE_URL": any_database_url}
    with started("uvicorn", f"{example}:app", tmp_path, "/", variables) as served, served.client() as client:
        assert client.get("/").json() == {"page": "the host's own"}
        live(client, "/kit")
        if example in GUARDED:
            a_guarded_page(served)
        assert served.stop() in {0, -15}
        assert "Traceback" not in served.log
        assert "lifespan" not in served.log
