"""A user and a realistic set of projects for ``projkit serve --demo``."""

from datetime import timedelta
from typing import Any, Final

from projkit.auth.passwords import Passwords
from projkit.auth.users import Users
from projkit.clock import utc_now
from projkit.db.port import Database
from projkit.db.tables import Tables
from projkit.errors import UsernameTakenError
from projkit.http.cursor import CursorCodec
from projkit.identity import DEFAULT_SCOPES, Principal
from projkit.projects.query import ProjectQuery
from projkit.projects.schemas import ProjectInput
from projkit.projects.service import ProjectService

DEMO_SUBJECT: Final = "demo"
DEMO_USER: Final = "demo"
DEMO_PASSWORD: Final = "projkit-demo"  # noqa: S105  # everybody may know it: development alone has this user
# Name, status, priority, tags, days from today to its start and to its due date.
_PROJECTS: Final[tuple[tuple[str, str, str, list[str], int, int | None], ...]] = (
    ("Website relaunch", "active", "high", ["web", "marketing"], -40, 12),
    ("Quarterly security review", "active", "critical", ["security"], -10, 4),
    ("Move the data centre", "planning", "critical", ["infrastructure"], 20, 140),
    ("Customer survey", "completed", "medium", ["research", "marketing"], -90, -30),
    ("Mobile app 3.0", "active", "high", ["mobile", "product"], -60, 45),
    ("Office plants", "on_hold", "low", ["office"], -120, None),
    ("Invoice automation", "active", "medium", ["finance"], -25, -2),
    ("Onboarding handbook", "completed", "low", ["people"], -200, -150),
    ("Partner portal", "planning", "medium", ["web", "partners"], 5, 90),
    ("Accessibility audit", "active", "high", ["web", "quality"], -7, 6),
    ("Legacy importer", "cancelled", "low", ["tools"], -300, -210),
    ("Energy monitoring", "active", "medium", ["infrastructure", "sustainability"], -15, 60),
)


async def add_demo_user(database: Database, tables: Tables) -> bool:
    """Adds the user ``demo``, unless there is one; tells whether the greeting's password is theirs."""
    users, passwords = Users(database, tables, clock=utc_now), Passwords(threads=1)
    try:
        known = await users.by_name(DEMO_USER)
        if known is not None:
            return known.disabled_at is None and await passwords.verify(known.password_hash, DEMO_PASSWORD)
        stored = await passwords.hash(DEMO_PASSWORD)
        await users.add(DEMO_USER, stored, subject=DEMO_SUBJECT, scopes=DEFAULT_SCOPES)
    except UsernameTakenError:
        return False  # the subject belongs to a user with another name
    finally:
        passwords.close()
    return True


async def add_demo_projects(database: Database, tables: Tables) -> None:
    """Adds the projects to the subject ``demo``, unless it has some."""
    service = ProjectService(database, tables, cursors=CursorCodec.throwaway(), clock=utc_now)
    principal = Principal(DEMO_SUBJECT)
    page = await service.list(principal, ProjectQuery(limit=1, archived="any"))
    if page.rows:
        return
    today = utc_now().date()
    for number, (name, status, priority, tags, start, due) in enumerate(_PROJECTS, start=1):
        content: dict[str, Any] = {
            "name": name,
            "status": status,
            "priority": priority,
            "tags": tags,
            "start_date": today + timedelta(days=start),
            "due_date": None if due is None else today + timedelta(days=due),
            "external_id": f"DEMO-{number:03d}",
            "description": f"{name}: one of the projects that projkit serve --demo adds.",
        }
        await service.create(principal, ProjectInput.model_validate(content))
