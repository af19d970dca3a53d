"""Deletes what a load test left behind that was killed: the projects with the tag that it printed at its start.

PROJKIT_LOAD_TOKEN=… python loadtests/clean.py load-1a2b3c4d-4711 -H http://127.0.0.1:8000 [--dry-run]

It needs the credentials of the run (docs/load-testing.md) and can be repeated. The exit code is 1 if something is left.
"""

import argparse
import os
import re
import sys

from support import dataset, preflight
from support.client import Client
from support.credentials import CredentialError, CredentialPool


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tag", help="the tag of the run, such as load-1a2b3c4d-4711")
    parser.add_argument("-H", "--host", default=os.environ.get("LOCUST_HOST"), help="the base URL")
    parser.add_argument("--dry-run", action="store_true", help="count the projects, but delete nothing")
    given = parser.parse_args()
    if not re.fullmatch(r"load-[0-9a-f]{8}-[0-9]+", given.tag):
        parser.error(
            "the tag of a run has the form load-1a2b3c4d-4711; it is printed at the start of the run"
        )
    host = preflight.check_host(given.host)
    client = Client(host)
    try:
        credentials = CredentialPool(client)
    except CredentialError as error:
        raise SystemExit(str(error)) from error
    preflight.check(host, client, credentials, needs_credential=True)
    reasons = []
    for number, each in enumerate(credentials.all, start=1):
        try:
            total = dataset.total(client, each, f"&tag={given.tag}")
        except (ValueError, KeyError, TypeError):
            reasons.append("the projects could not be listed")
            continue
        owner = f"owner {number} of {len(credentials.all)}: " if len(credentials.all) > 1 else ""
        if given.dry_run or not total:
            print(f"{owner}{total} projects have the tag {given.tag}")
            continue

        def report(done: int, owner: str = owner, total: int = total) -> None:
            print(f"{owner}{done} of {total} projects deleted", flush=True)

        reasons.append(dataset.delete_created(client, each, given.tag, report))
    credentials.log_out()
    for reason in filter(None, reasons):
        print(f"projects with the tag {given.tag} may be left: {reason}", file=sys.stderr)
    return 1 if any(reasons) else 0


if __name__ == "__main__":
    sys.exit(main())
