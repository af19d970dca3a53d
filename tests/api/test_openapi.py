"""The OpenAPI document, and the pages that load files of their own."""

import gzip
import json
import re
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import validate

from projkit import ProjKit, Settings
from projkit.auth.schemas import LoginInput, PasswordInput, RefreshInput, RegistrationInput
from projkit.http.problem import STATUS
from projkit.projects.schemas import Project, ProjectInput
from tests.conftest import SECRET, Client

pytestmark = pytest.mark.anyio


async def test_the_document_is_valid_and_complete(client: Client) -> None:
    """The document is valid OpenAPI 3.1 and has every route of the API with its responses."""
    answer = await client.get("/api/v1/openapi.json")
    document = answer.json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    shown = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    kit = ProjKit(Settings(secret=SECRET))
    routes = {
        (next(iter((route.methods or set()) - {"HEAD"})), route.path)
        for route in kit.routes
        if not re.search(r"/docs\b|/assets/|/(openapi\.json|monitoring)$", route.path)
    }
    assert shown == routes
    for method, path in shown:
        operation = document["paths"][path][method.lower()]
        if operation["security"]:
            assert {"401", "500", "503"} <= operation["responses"].keys()
        # Authenticated callers can be rejected for their scopes, or by the CSRF check.
        can_be_forbidden = "Scope: " in operation.get("description", "") or (
            operation["security"] and method != "GET"
        )
        assert not can_be_forbidden or "403" in operation["responses"]


async def test_every_error_class_is_documented() -> None:
    """Each status of an error is a response of some operation."""
    document = ProjKit(Settings(secret=SECRET)).openapi()
    documented = {
        int(status)
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict)
        for status in operation["responses"]
    }
    assert {status for status in STATUS.values() if status != 405} <= documented


async def test_examples() -> None:
    """Every request body has an example that its schema and the model accept, and every reference resolves."""
    document = ProjKit(Settings(secret=SECRET, registration="open")).openapi()
    schemas, responses = document["components"]["schemas"], document["components"]["responses"]
    bodies = {
        content["schema"]["$ref"].rpartition("/")[2]
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict) and "requestBody" in operation
        for content in operation["requestBody"]["content"].values()
    }
    models: dict[str, Any] = {
        "ProjectInput": ProjectInput, "ProjectReplacement": ProjectInput, "LoginInput": LoginInput,
        "RefreshInput": RefreshInput, "PasswordInput": PasswordInput, "RegistrationInput": RegistrationInput,
    }  # fmt: skip
    assert bodies == {*models, "ProjectPatch"}
    resolver = {"$defs": schemas}
    for name in bodies | {"Project", "ProjectList", "Login", "SessionInfo"}:
        (example,) = schemas[name]["examples"]
        text = json.dumps({**schemas[name], **resolver}).replace("#/components/schemas/", "#/$defs/")
        jsonschema_rs.validate(json.loads(text), example)
        if name in models:
            models[name].model_validate_json(json.dumps(example))
    assert list(schemas["Project"]["examples"][0]) == list(Project.model_fields)
    for name, response in responses.items():
        (content,) = response["content"].values()
        assert content["example"]["status"] == int(name.removeprefix("Problem"))
    refs = set(re.findall(r'"#/components/responses/(\w+)"', json.dumps(document["paths"])))
    assert refs == responses.keys()


async def test_the_document_names_the_mount() -> None:
    """A prefix precedes every path."""
    kit = ProjKit(Settings(secret=SECRET))
    assert set(kit.openapi("/kit")["paths"]) == {f"/kit{path}" for path in kit.openapi()["paths"]}


@pytest.mark.parametrize(("name", "number"), [("docs", 5), ("monitoring", 3)])
async def test_pages_load_only_their_own_files(client: Client, name: str, number: int) -> None:
    """A page and its files come from the kit, its policy allows nothing else, and both are revalidated by ETag."""
    page = await client.get(f"/api/v1/{name}")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page.text)
    linked = re.findall(rf"(?:src|href)=\"({name}/[^\"]+\.\w+)\"", page.text)
    assert len(linked) == number
    for each in linked:
        plain = await client.get(f"/api/v1/{each}", headers={"Accept-Encoding": "identity"})
        packed = await client.get(f"/api/v1/{each}", headers={"Accept-Encoding": "gzip"})
        assert plain.status_code == packed.status_code == 200
        assert packed.headers["content-encoding"] == "gzip"
        assert plain.content == packed.content
        assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0))
        again = await client.get(f"/api/v1/{each}", headers={"If-None-Match": plain.headers["etag"]})
        assert again.status_code == 304


async def test_kit_openapi_returns_the_served_document(client: Client) -> None:
    """``kit.openapi()`` returns the document that is served."""
    served = (await client.get("/api/v1/openapi.json")).json()
    own = json.loads(json.dumps(ProjKit(Settings(secret=SECRET)).openapi()))
    assert own == served


@pytest.mark.parametrize(("host_prefix", "name"), [(False, "auth_token"), (True, "__Host-auth_token")])
def test_the_document_names_the_cookie_as_it_is_set(host_prefix: bool, name: str) -> None:
    """The security scheme has the name of the cookie, with its prefix if it has one."""
    kit = ProjKit(Settings(secret=SECRET, cookie_host_prefix=host_prefix))
    assert kit.openapi()["components"]["securitySchemes"]["cookie"]["name"] == name
