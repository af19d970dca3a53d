"""The kit behind nginx."""

from pathlib import Path

import pytest

from tests.hosts.conftest import started
from tests.hosts.nginx import proxied


@pytest.mark.parametrize("gzip", [False, True])
def test_gzip(tmp_path: Path, gzip: bool) -> None:
    """nginx passes responses on, over TLS, compressed where it is configured to."""
    variables = {"PROJKIT_DATABASE_URL": f"sqlite:///{tmp_path}/projkit.db"}
    with (
        started("uvicorn", "projkit.cli.server:create_app", tmp_path, "/livez", variables) as served,
        proxied(served.url, gzip=gzip) as nginx,
        nginx.client() as client,
    ):
        answer = client.get("/api/v1/openapi.json")
        assert answer.status_code == 200
        assert answer.headers.get("content-encoding") == ("gzip" if gzip else None)
