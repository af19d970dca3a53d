"""Tables, and the bodies of requests and responses."""

from uuid import UUID, uuid4

from sqlmodel import Field, SQLModel


class Credentials(SQLModel):
    email: str = Field(max_length=255)
    password: str = Field(min_length=8, max_length=128)


class UserPublic(SQLModel):
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    email: str = Field(unique=True, index=True, max_length=255)


class User(UserPublic, table=True):
    password_hash: str
    is_active: bool = True


class ItemCreate(SQLModel):
    title: str = Field(min_length=1, max_length=255)


class ItemPublic(ItemCreate):
    id: UUID = Field(default_factory=uuid4, primary_key=True)


class Item(ItemPublic, table=True):
    owner_id: UUID = Field(foreign_key="user.id", index=True, ondelete="CASCADE")


class Token(SQLModel):
    access_token: str
    token_type: str = "bearer"
