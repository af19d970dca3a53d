"""The parts that all peers share: the database, tokens, and the fields of a project."""

from __future__ import annotations

import base64
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import OctKey
from uuid_utils.compat import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping

DATABASE_URL = os.environ.get("BENCH_DATABASE_URL", "postgresql://postgres@127.0.0.1/projkit_bench")
SECRET = os.environ.get("BENCH_SECRET", "a signing key for the benchmarks only")
API = "/api/v1"
TABLE = "bench_projects"
FIELDS = (
    "id",
    "owner_id",
    "name",
    "description",
    "status",
    "priority",
    "tags",
    "start_date",
    "due_date",
    "metadata",
    "external_id",
    "archived_at",
    "completed_at",
    "created_at",
    "updated_at",
    "version",
)

_KEY = OctKey.import_key(SECRET)
_CLAIMS = jwt.JWTClaimsRegistry(sub={"essential": True}, exp={"essential": True})


def make_token(subject: str, seconds: int = 86_400) -> str:
    """Return an HS256 token of the subject that every peer accepts."""
    now = int(time.time())
    claims = {"sub": subject, "iat": now, "exp": now + seconds, "scope": "projects:read projects:write"}
    return jwt.encode({"alg": "HS256", "typ": "at+jwt"}, claims, _KEY)


def verify_token(token: str) -> dict[str, Any]:
    """Return the claims of a valid token; an invalid one raises ``JoseError`` or ``ValueError``."""
    verified = jwt.decode(token, _KEY, algorithms=["HS256"])
    _CLAIMS.validate(verified.claims)
    return verified.claims


def new_record(owner_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a complete project from validated input, as each peer stores and returns it."""
    now = datetime.now(UTC)
    return {
        "id": uuid7(),
        "owner_id": owner_id,
        "description": "",
        "status": "planning",
        "priority": "medium",
        "tags": [],
        "start_date": None,
        "due_date": None,
        "metadata": {},
        "external_id": None,
        **fields,
        "archived_at": None,
        "completed_at": now if fields.get("status") == "completed" else None,
        "created_at": now,
        "updated_at": now,
        "version": 1,
    }


def encode_cursor(created_at: datetime, project_id: UUID | str) -> str:
    """Return the cursor of the page after this project, newest first."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()}|{project_id}".encode()).decode()


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Decode a cursor; an invalid one raises ``ValueError``."""
    created_at, _, project_id = base64.urlsafe_b64decode(cursor).decode().partition("|")
    return datetime.fromisoformat(created_at), UUID(project_id)
