"""Whatever the OpenAPI document allows, and what it does not, gets a documented answer: driven by Schemathesis."""

import os
import subprocess
import sys
from pathlib import Path

from projkit import ProjKit
from tests.conftest import SCOPES, serving, settings_for, token_for

# Valid by schema is not all: dates have an order, cursors an origin, entity tags a present value.
NOT_IN_SCHEMA = "positive_data_acceptance"
# These would end the very token that drives the others.
ENDS_THE_TOKEN = ("logOut", "logOutEverywhere")
# These take no input, and each costs as much as dozens of requests; their own tests hold them to their schemas.
VALIDATIONS = ("validateEndpoints", "validateAuthentication")
CONFIG = Path(__file__).with_name("schemathesis.toml")


def test_the_document_is_kept(any_database_url: str) -> None:
    """Generated requests, valid and not, alone and chained by links, get no 500 and nothing undocumented."""
    settings = settings_for(any_database_url)
    token = token_for(settings, "alice", (*SCOPES, "monitoring:read", "metrics:read"), seconds=3600)
    with serving(ProjKit(settings)) as url:
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{url}/api/v1/openapi.json",
            # As behind a proxy: who is on this machine needs no credentials for monitoring.
            "--header", f"Authorization: Bearer {token}", "--header", "X-Forwarded-For: 203.0.113.5",
                "--checks", "all", "--exclude-checks", NOT_IN_SCHEMA,
            *(f"--exclude-operation-id={name}" for name in (*ENDS_THE_TOKEN, *VALIDATIONS)),
            "--max-examples", "12", "--request-timeout", "20",
            "--phases", "examples,coverage,fuzzing,stateful", "--suppress-health-check", "all",
            "--seed", "7", "--no-color", "--generation-database", "none",
        ]  # fmt: skip
        # Nothing of projkit runs in there, so measuring its coverage would only make it slower.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=420, check=False, env=environment
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert "Stateful" in done.stdout
