"""Any request, whether the OpenAPI document allows it or not, gets a documented response; run by Schemathesis."""

import os
import subprocess
import sys
from pathlib import Path

from projkit import ProjKit
from tests.conftest import SCOPES, serving, settings_for, token_for

# The schemas do not express all rules: the order of dates, the origin of cursors, the current entity tag.
NOT_IN_SCHEMA = "positive_data_acceptance"
# These would revoke the token that the other requests use.
ENDS_THE_TOKEN = ("logOut", "logOutEverywhere")
# These have no input, and each takes as long as dozens of requests; other tests compare them with their schemas.
VALIDATIONS = ("validateEndpoints", "validateAuthentication")
CONFIG = Path(__file__).with_name("schemathesis.toml")


def test_responses_match_the_document(any_database_url: str) -> None:
    """Generated requests, valid and invalid, alone and chained by links, get no 500 and no undocumented response."""
    settings = settings_for(any_database_url)
    token = token_for(settings, "alice", (*SCOPES, "monitoring:read", "metrics:read"), seconds=3600)
    with serving(ProjKit(settings)) as url:
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{url}/api/v1/openapi.json",
            # As from another machine: local clients need no credentials for monitoring.
            "--header", f"Authorization: Bearer {token}", "--header", "X-Forwarded-For: 203.0.113.5",
                "--checks", "all", "--exclude-checks", NOT_IN_SCHEMA,
            *(f"--exclude-operation-id={name}" for name in (*ENDS_THE_TOKEN, *VALIDATIONS)),
            "--max-examples", "12", "--request-timeout", "20",
            "--phases", "examples,coverage,fuzzing,stateful", "--suppress-health-check", "all",
            "--seed", "7", "--no-color", "--generation-database", "none",
        ]  # fmt: skip
        # No code of projkit runs in this process, so it is run without coverage.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=420, check=False, env=environment
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert "Stateful" in done.stdout
