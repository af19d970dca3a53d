"""The user and the projects that ``projkit serve --demo`` adds."""

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
DEMO_PASSWORD: Final = "projkit-demo"  # noqa: S105  # public: the user is added in development only
# Name, status, priority, tags, and the days from today to the start date and to the due date.
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
    """Add the user ``demo`` if it does not exist; return whether it can log in with the demo password."""
    users, passwords = Users(database, tables, clock=utc_now), Passwords(threads=1)
    try:
        user = await users.by_name(DEMO_USER)
        if user is not None:
            return user.disabled_at is None and await passwords.verify(user.password_hash, DEMO_PASSWORD)
        password_hash = await passwords.hash(DEMO_PASSWORD)
        await users.add(DEMO_USER, password_hash, subject=DEMO_SUBJECT, scopes=DEFAULT_SCOPES)
    except UsernameTakenError:
        return False  # another user has the subject
    finally:
        passwords.close()
    return True


async def add_demo_projects(database: Database, tables: Tables) -> None:
    """Add the demo projects to the subject ``demo`` if it has no projects."""
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
            "description": f"{name}: a demo project added by projkit serve --demo.",
        }
        await service.create(principal, ProjectInput.model_validate(content))
