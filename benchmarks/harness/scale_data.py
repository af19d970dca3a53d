"""The projects of the scale checks: a tenth of one owner's, some owners at the extremes, and a Zipf distribution.

The values are random but the same in each run. Terms, tags and statuses that are *rare* have a fixed number of
projects, whatever the size; *common* ones have a fixed share.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from projkit.projects.listing import search_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

LARGE: Final = "large"
# The owners at the extremes, with a fiftieth of all projects each.
EXTREMES: Final = ("undated", "dated", "archived", "deleted", "one-status")
RARE: Final = 30  # more than one page has

NOW: Final = datetime(2026, 6, 15, 12, tzinfo=UTC)
_SPAN: Final = timedelta(days=1000)
_STATUSES: Final = ("active", "planning", "completed", "on_hold")
_STATUS_SHARES: Final = (40, 30, 28, 2)
_PRIORITY_SHARES: Final = (15, 60, 24, 1)
_COLUMNS: Final = (
    "tenant_id", "id", "owner_id", "created_by", "name", "description", "search_text", "status", "priority", "tags",
    "start_date", "due_date", "metadata", "external_id", "archived_at", "completed_at", "created_at", "updated_at",
    "deleted_at", "version",
)  # fmt: skip
_SYLLABLES: Final = (
    "ba",
    "den",
    "fi",
    "gor",
    "hal",
    "jin",
    "ka",
    "lom",
    "mer",
    "no",
    "pel",
    "ra",
    "sto",
    "tur",
    "vin",
)


async def fill(connection: asyncpg.Connection, table: str, rows: int) -> None:
    """Copy ``rows`` projects into the empty table, and bring its statistics and its visibility map up to date."""
    await connection.copy_records_to_table(table, records=_records(rows), columns=_COLUMNS)
    await connection.execute(f"VACUUM (ANALYZE) {table}")


def _records(rows: int) -> Iterator[tuple[Any, ...]]:
    dice = random.Random(rows)
    words = ["".join(dice.choices(_SYLLABLES, k=dice.randint(2, 4))) for _ in range(2000)]
    word_weights = list(accumulate(1 / rank for rank in range(20, 2020)))
    rare_left = dict.fromkeys((LARGE, *EXTREMES), RARE)
    for number, owner in enumerate(_owners(dice, rows)):
        # The oldest projects first. The rare ones are among them, and so are the last in the default order.
        created_at = NOW - _SPAN + _SPAN * (number / rows)
        updated_at = created_at + (NOW - created_at) * dice.random()
        rare = rare_left.get(owner, 0) > 0 and dice.random() < 0.5
        if rare:
            rare_left[owner] -= 1
        name = " ".join(dice.choices(words, cum_weights=word_weights, k=4)).capitalize()
        description = " ".join(dice.choices(words, cum_weights=word_weights, k=dice.randint(5, 50)))
        name += " customer" if dice.random() < 0.3 else ""
        if rare:
            description += " zyzzyva Überprüfung"
        status = "cancelled" if rare else dice.choices(_STATUSES, _STATUS_SHARES)[0]
        if owner == "one-status":
            status = "active"
        tags = [tag for tag, share in (("common", 0.3), ("some", 0.02)) if dice.random() < share]
        tags += ["rare"] if rare else []
        undated = owner == "undated" or (owner != "dated" and dice.random() < 0.33)
        due = None if undated else (created_at + timedelta(days=dice.randint(1, 400))).date()
        archived = owner == "archived" or (owner == LARGE and dice.random() < 0.1)
        deleted = owner == "deleted" or dice.random() < 0.05
        yield (
            "",
            _uuid7(dice, created_at),
            owner,
            owner,
            name,
            description,
            search_text(name, description),
            status,
            dice.choices(range(4), _PRIORITY_SHARES)[0],
            str(tags).replace("'", '"'),
            None,
            due,
            '{"cost_centre": 1000}',
            f"ext-{number}" if number % 3 == 0 else None,
            updated_at if archived else None,
            updated_at if status == "completed" else None,
            created_at,
            updated_at,
            updated_at if deleted else None,
            1,
        )


def _owners(dice: random.Random, rows: int) -> list[str]:
    others = max(rows // 100, 10)
    names = [LARGE, *EXTREMES, *(f"owner-{rank:06}" for rank in range(others))]
    zipf = [1 / rank for rank in range(1, others + 1)]
    left = 1 - 0.1 - 0.02 * len(EXTREMES)
    shares = [0.1, *[0.02] * len(EXTREMES), *(left * weight / sum(zipf) for weight in zipf)]
    return dice.choices(names, cum_weights=list(accumulate(shares)), k=rows)


def _uuid7(dice: random.Random, created_at: datetime) -> UUID:
    milliseconds = int(created_at.timestamp() * 1000)
    noise = dice.getrandbits(74)
    return UUID(int=milliseconds << 80 | 7 << 76 | noise >> 62 << 64 | 2 << 62 | noise & (1 << 62) - 1)
