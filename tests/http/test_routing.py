"""Finding the endpoint of a path."""

import pytest

from projkit import ProjKit
from projkit.testing.internals import Internals
from tests.conftest import settings_for

ONE = "/api/v1/projects/{project_id}"
PATHS = {
    "/api/v1/projects": "/api/v1/projects",
    "/api/v1/projects/": None,
    "/api/v1/projects/7": ONE,
    "/api/v1/projects/7/": None,
    "/api/v1/projects//": None,
    "/api/v1/projects/stats": None,
    "/api/v1/projects/stats/summary": "/api/v1/projects/stats/summary",
    "/api/v1/projects/7/archive": f"{ONE}/archive",
    "/api/v1/projects/7/nothing": None,
    "/api/v1/auth/sessions/7": "/api/v1/auth/sessions/{session_id}",
    "/api/v1/auth/oidc/acme/login": "/api/v1/auth/oidc/{provider}/login",
    "/api/v1": None,
    "api/v1/projects/7": None,
    "/": None,
    "": None,
}


@pytest.mark.parametrize(("path", "template"), PATHS.items())
def test_templates(path: str, template: str | None) -> None:
    """A path has the endpoint whose template it fits, segment by segment, and no other."""
    match = Internals(ProjKit(settings_for("sqlite:///none.db"))).application.table.find(path)
    assert (None if match is None else match.template) == template
    if match is not None and "{" in match.template:
        assert list(match.params.values()) == [
            next(part for part in path.split("/") if part in {"7", "acme"})
        ]
