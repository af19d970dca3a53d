"""Requests for validations, and counts of all rows."""

from collections.abc import Mapping
from typing import Any, Final

import asyncpg
from prometheus_client import CollectorRegistry

from projkit import ProjKit
from projkit.db.tables import build_tables
from tests.auth.asgi_client import Answer, ask, bearer
from tests.conftest import token_for
from tests.services import open_sqlite

TABLES: Final = build_tables("projkit_")
TABLE_NAMES: Final = [table.name for table in TABLES.metadata.sorted_tables]


async def validate(kit: ProjKit, what: str) -> Answer:
    """Validate ``endpoints`` or ``authentication`` with an operator's token and return the response."""
    options = {"tenant_id": "acme"} if kit.settings.tenant_claim else {}
    token = token_for(kit.settings, "olga", ("monitoring:read",), **options)
    return await ask(kit, "GET", f"{kit.settings.api_prefix}/monitoring/validate/{what}", [bearer(token)])


def by_name(answer: Answer) -> dict[str, dict[str, Any]]:
    """Return the steps or checks of a response by name."""
    body = answer.json()
    return {each.get("step", each.get("name")): each for each in body.get("endpoints", body.get("checks"))}


def failed(answer: Answer) -> set[str]:
    """Return the names of the failed steps or checks."""
    return {
        name
        for name, each in by_name(answer).items()
        if "failed" in {each.get("verdict"), each.get("status")}
    }


async def count_rows(url: str) -> dict[str, int]:
    """Return the number of rows in each table, of all owners."""
    statements = {name: f'SELECT count(*) FROM "{name}"' for name in TABLE_NAMES}
    if url.startswith("sqlite"):
        with open_sqlite(url) as connection:
            return {name: connection.execute(sql).fetchone()[0] for name, sql in statements.items()}
    admin = await asyncpg.connect(url, timeout=5)
    try:
        return {name: await admin.fetchval(sql) for name, sql in statements.items()}
    finally:
        await admin.close()


def recorded_metrics(registry: CollectorRegistry) -> Mapping[Any, float]:
    """Return the request and authentication metrics, except those of validation requests."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if metric.name.startswith(("projkit_http", "projkit_auth"))
        and not sample.name.endswith("_created")
        and "/validate/" not in sample.labels.get("route", "")
        and sample.name != "projkit_http_server_active_requests"
    }
