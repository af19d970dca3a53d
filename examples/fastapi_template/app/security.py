"""Users with password hashes, and access tokens signed with HS256."""

import asyncio
import time
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from joserfc import jwt
from joserfc.jwk import OctKey
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.models import User
from app.settings import settings

hasher = PasswordHasher()
_KEY = OctKey.import_key(settings.secret)
_NO_PASSWORD = hasher.hash("no user has this password")


def create_token(user: User) -> str:
    """Create an access token for a user."""
    claims = {"sub": str(user.id), "exp": int(time.time()) + settings.token_minutes * 60}
    return jwt.encode({"alg": "HS256"}, claims, _KEY)


async def hash_password(password: str) -> str:
    """Hash a password."""
    return await asyncio.to_thread(hasher.hash, password)


async def has_password(user: User | None, password: str) -> bool:
    """Verify a password, with the same work for a user who does not exist."""
    try:
        await asyncio.to_thread(hasher.verify, user.password_hash if user else _NO_PASSWORD, password)
    except VerifyMismatchError:
        return False
    return user is not None


async def find_user(session: AsyncSession, email: str) -> User | None:
    """Return the active user with this email address."""
    return (await session.exec(select(User).where(User.email == email, User.is_active))).first()


async def find_subject(session: AsyncSession, subject: str) -> User | None:
    """Return the active user whom the ``sub`` of a token names."""
    try:
        user = await session.get(User, UUID(subject))
    except ValueError:
        return None
    return user if user and user.is_active else None
