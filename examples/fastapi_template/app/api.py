"""The routes of the service: users, and their items."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from app.db import Session
from app.kit import kit
from app.models import Credentials, Item, ItemCreate, ItemPublic, Token, User, UserPublic
from app.security import create_token, find_subject, find_user, has_password, hash_password
from projkit import Principal
from projkit.hosts.fastapi import current_principal

router = APIRouter(prefix="/api/v1")


async def current_user(
    session: Session, principal: Annotated[Principal, Depends(current_principal(kit))]
) -> User:
    """Return the user whom a token of the service or of the kit names."""
    user = await find_subject(session, principal.subject)
    if user is None:
        raise HTTPException(401, "The user is not active", {"WWW-Authenticate": "Bearer"})
    return user


CurrentUser = Annotated[User, Depends(current_user)]


@router.post("/users", status_code=201, response_model=UserPublic, tags=["users"])
async def create_user(body: Credentials, session: Session) -> User:
    """Create a user."""
    user = User(email=body.email, password_hash=await hash_password(body.password))
    session.add(user)
    try:
        await session.commit()
    except IntegrityError as error:
        raise HTTPException(409, "The email address is taken") from error
    return user


@router.post("/login", tags=["users"])
async def log_in(body: Credentials, session: Session) -> Token:
    """Exchange an email address and a password for an access token."""
    user = await find_user(session, body.email)
    if not await has_password(user, body.password) or user is None:
        raise HTTPException(401, "The email address or the password is wrong")
    return Token(access_token=create_token(user))


@router.get("/users/me", response_model=UserPublic, tags=["users"])
async def get_me(user: CurrentUser) -> User:
    """Return the caller."""
    return user


@router.delete("/users/me", status_code=204, tags=["users"])
async def deactivate_me(user: CurrentUser, session: Session) -> None:
    """Deactivate the caller, who loses access at once, in the kit as well."""
    user.is_active = False
    session.add(user)
    await session.commit()
    await kit.sessions.end_all(str(user.id))


@router.post("/items", status_code=201, response_model=ItemPublic, tags=["items"])
async def create_item(body: ItemCreate, user: CurrentUser, session: Session) -> Item:
    """Create an item of the caller."""
    item = Item(title=body.title, owner_id=user.id)
    session.add(item)
    await session.commit()
    return item


@router.get("/items", response_model=list[ItemPublic], tags=["items"])
async def list_items(user: CurrentUser, session: Session) -> Sequence[Item]:
    """List the caller's items."""
    return (await session.exec(select(Item).where(Item.owner_id == user.id))).all()


@router.get("/items/{item_id}", response_model=ItemPublic, tags=["items"])
async def get_item(item_id: UUID, user: CurrentUser, session: Session) -> Item:
    """Return an item of the caller."""
    item = await session.get(Item, item_id)
    if item is None or item.owner_id != user.id:
        raise HTTPException(404, "There is no such item")
    return item
