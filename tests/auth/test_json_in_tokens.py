"""JSONTestSuite inside the header and the payload of otherwise well-signed tokens."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from projkit import ProjKit
from tests.auth import forge
from tests.auth.asgi_client import Answer, ask, bearer, refuses
from tests.corpora import json_test_suite

pytestmark = pytest.mark.anyio

# Valid, and refused in tokens as in bodies: two readers could take them for two different documents.
REFUSED_THOUGH_VALID: Final = {
    "y_object_duplicated_key.json",
    "y_object_duplicated_key_and_value.json",
    "y_string_null_escape.json",
    "y_object_escaped_null_in_key.json",
}


def inside(document: Any, content: bytes) -> bytes:
    """Return a JSON object with one more member, whose value is ``content``."""
    return json.dumps(document).encode()[:-1] + b', "more": ' + content + b"}"


async def whoami(kit: ProjKit, token: str) -> Answer:
    """Return the response to a request with the token."""
    return await ask(kit, "GET", "/api/v1/auth/session", [bearer(token)])


@pytest.mark.parametrize("file", json_test_suite(""))
async def test_as_header_or_payload(shared_kit: ProjKit, file: Path) -> None:
    """No document of the corpus makes a header, not even as one member more of a good one, or claims."""
    content = file.read_bytes()
    refuses(await whoami(shared_kit, forge.token(content)))
    refuses(await whoami(shared_kit, forge.token(inside(forge.header(), content))))
    refuses(await whoami(shared_kit, forge.token(payload=content)))


@pytest.mark.parametrize("file", json_test_suite("n_"))
async def test_invalid_json_within_claims(shared_kit: ProjKit, file: Path) -> None:
    """Valid claims with one more member that is not JSON are rejected."""
    refuses(await whoami(shared_kit, forge.token(payload=inside(forge.claims(), file.read_bytes()))))


@pytest.mark.parametrize("file", json_test_suite("y_"))
async def test_valid_json_within_claims(shared_kit: ProjKit, file: Path) -> None:
    """Valid claims with one more member of any JSON value are accepted, except for ambiguous values."""
    answer = await whoami(shared_kit, forge.token(payload=inside(forge.claims(), file.read_bytes())))
    if file.name in REFUSED_THOUGH_VALID:
        refuses(answer)
    else:
        assert answer.status == 200, answer
        assert answer.json()["subject"] == "alice"


@pytest.mark.parametrize("file", json_test_suite("i_"))
async def test_open_questions_within_claims(shared_kit: ProjKit, file: Path) -> None:
    """Where the corpus permits both, a token is accepted or rejected as any other."""
    answer = await whoami(shared_kit, forge.token(payload=inside(forge.claims(), file.read_bytes())))
    if answer.status != 200:
        refuses(answer)
