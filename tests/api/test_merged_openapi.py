"""The kit's OpenAPI document inside a host's."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from pydantic import BaseModel

from projkit import ProjKit, Settings
from tests.conftest import SECRET

_DOCUMENT = (Path(__file__).parents[2] / "docs/mounting.md").read_text()


class Project(BaseModel):
    """A project of the host, which is not one of the kit."""

    budget: int


def _host() -> FastAPI:
    app = FastAPI(title="Host")

    @app.get("/api/v1/projects", operation_id="listProjects", tags=["projects"])
    def list_projects() -> list[Project]:
        raise NotImplementedError

    return app


def _documented_merge(app: FastAPI, kit: ProjKit) -> Callable[[Any, Any], dict[str, Any]]:
    """Run the example of the documentation on an app; return its function."""
    (code,) = re.findall(r"```python\n(def merge_openapi.*?)```", _DOCUMENT, re.DOTALL)
    names: dict[str, Any] = {"app": app, "kit": kit}
    exec(code, names)
    merge: Callable[[Any, Any], dict[str, Any]] = names["merge_openapi"]
    return merge


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from (operation for method, operation in path.items() if method != "parameters")


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from _refs(each)
    elif isinstance(value, list):
        for each in value:
            yield from _refs(each)


def _resolve(document: dict[str, Any], ref: str) -> Any:
    found: Any = document
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_two_kits_merge_into_a_host() -> None:
    """Names of a host and of two kits do not collide: nothing is replaced, and every reference resolves."""
    app, kit = _host(), ProjKit(Settings(secret=SECRET))
    merge = _documented_merge(app, kit)
    merged = merge(app.openapi(), kit.openapi("/other", name_prefix="other."))
    validate(merged)
    ids = [operation["operationId"] for operation in _operations(merged)]
    assert len(ids) == len(set(ids))
    assert {"listProjects", "projkit_listProjects", "other.listProjects"} <= set(ids)
    assert list(merged["components"]["schemas"]["Project"]["properties"]) == ["budget"]
    schemas = kit.openapi()["components"]["schemas"]
    assert merged["components"]["schemas"]["projkit_Project"]["required"] == schemas["Project"]["required"]
    for ref in _refs(merged):
        assert _resolve(merged, ref)
    declared = {tag["name"] for tag in merged["tags"]}
    for operation in _operations(merged):
        if operation["operationId"].startswith("projkit_"):
            assert declared >= set(operation["tags"])
            for requirement in operation["security"]:
                assert requirement.keys() <= merged["components"]["securitySchemes"].keys()
        for response in operation["responses"].values():
            assert {link["operationId"] for link in response.get("links", {}).values()} <= set(ids)


def test_every_name_has_the_prefix() -> None:
    """Every name and every reference has the prefix, and nothing else changes."""
    kit = ProjKit(Settings(secret=SECRET, registration="open"))
    named = json.dumps(kit.openapi(name_prefix="kitq_"))
    assert named.count("kitq_") > 300
    assert json.loads(named.replace("kitq_", "")) == json.loads(json.dumps(kit.openapi()))
    for kind, components in json.loads(named)["components"].items():
        assert all(name.startswith("kitq_") for name in components), kind


@pytest.mark.parametrize("prefix", ["my kit", "kit/", "kit~", "ä", "kit\n"])
def test_names_have_only_characters_that_the_specification_allows(prefix: str) -> None:
    """A prefix that would make the document invalid is rejected."""
    with pytest.raises(ValueError, match="name_prefix may contain"):
        ProjKit(Settings(secret=SECRET)).openapi(name_prefix=prefix)
