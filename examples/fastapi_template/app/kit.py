"""The kit: projects for the users of the service, in its database, at ``/kit``."""

from app.db import engine, open_session
from app.security import find_subject, find_user, has_password
from app.settings import settings
from projkit import Principal, ProjKit, Rejected, Settings


async def authenticate(username: str, password: str) -> Principal | Rejected | None:
    """Log a user of the service in to the kit."""
    async with open_session() as session:
        user = await find_user(session, username)
    is_valid = await has_password(user, password)
    if user is None:
        return None
    return Principal(str(user.id)) if is_valid else Rejected(str(user.id))


async def still_valid(subject: str) -> bool:
    """Return whether a user may continue; asked for each token of the service, and at each refresh."""
    async with open_session() as session:
        return await find_subject(session, subject) is not None


kit = ProjKit(
    Settings(legacy_secret=settings.secret),  # tokens of the service are tokens for the kit
    engine=engine,
    authenticate=authenticate,
    still_valid=still_valid,
)
