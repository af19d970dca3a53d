"""The settings of the service: ``APP_*`` environment variables."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="APP_")

    database_url: str = "sqlite+aiosqlite:///app.db"  # or postgresql+asyncpg://…, postgresql+psycopg://…
    secret: str = "change me to 32 random bytes or more"
    token_minutes: int = 60
    cors_origins: list[str] = ["http://localhost:5173"]
    allowed_hosts: list[str] = ["localhost", "127.0.0.1", "testserver"]


settings = Settings()
