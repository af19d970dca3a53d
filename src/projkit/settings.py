"""Settings: ``PROJKIT_*`` variables, or keyword arguments of :class:`Settings`."""

import difflib
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from projkit.errors import ConfigurationError

ENV_PREFIX: Final = "PROJKIT_"
MINIMUM_SECRET_BYTES: Final = 32
_NEW_SECRET: Final = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105  # a command
# What Kubernetes injects for a service called projkit, and what tests and load suites use.
_NOT_OURS: Final = re.compile(r"PROJKIT_(SERVICE_.*|PORT(_.*)?|REQUIRE_SERVICES|LOAD_.*|TEST_.*)")

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class UnknownSettingWarning(UserWarning):
    """A ``PROJKIT_`` variable that no setting reads: most often a misspelt name."""


class Settings(BaseSettings):
    """How a kit behaves. Every field may also be set as the environment variable ``PROJKIT_<FIELD>``.

    Raises:
        ConfigurationError: a value is wrong; the message names the setting and the mend.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    env: Literal["development", "production"] = "development"

    database_url: str = "sqlite+aiosqlite:///projkit.db"
    database_mode: Literal["fast", "transactional"] = "fast"
    database_pool_size: int = Field(default=10, ge=1, le=1000)
    database_connect_seconds: Seconds = 3.0
    database_pool_wait_seconds: Seconds = 3.0
    database_statement_seconds: Seconds = 5.0
    table_prefix: str = Field(default="projkit_", pattern=r"^[a-z_][a-z0-9_]{0,29}$")

    api_prefix: str = "/api/v1"
    secret: SecretStr | None = None
    keys_file: Path | None = None
    issuer: str = Field(default="projkit", min_length=1, max_length=255)
    audience: str = Field(default="projkit", min_length=1, max_length=255)
    access_token_seconds: int = Field(default=900, ge=1, le=31_536_000)
    tenant_claim: str = Field(default="", max_length=255)

    max_body_bytes: int = Field(default=1_048_576, ge=1024, le=1_073_741_824)
    request_timeout_seconds: Seconds = 30.0
    require_if_match: bool = False
    put_mode: Literal["replace", "merge"] = "replace"

    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    drain_seconds: float = Field(default=2.0, ge=0, le=3600)
    access_log: bool = True
    log_format: Literal["console", "json"] = "console"
    freeze_gc: bool = True

    def __init__(self, **values: Any) -> None:  # the one door where pydantic's errors become ours
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None
        for name, nearest in unknown_variables(os.environ):
            hint = f"; did you mean {nearest}?" if nearest else ""
            warnings.warn(f"{name} is not a setting of projkit{hint}", UnknownSettingWarning, stacklevel=2)

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _read_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("api_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
            raise ValueError("must start with / and not end with it, as in /api/v1")
        return value

    @field_validator("database_url")
    @classmethod
    def _name_driver(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        driver = {
            "postgres": "postgresql+asyncpg",
            "postgresql": "postgresql+asyncpg",
            "postgresql+asyncpg": "postgresql+asyncpg",
            "sqlite": "sqlite+aiosqlite",
            "sqlite+aiosqlite": "sqlite+aiosqlite",
        }.get(scheme)
        if not separator or driver is None:
            raise ValueError(
                "must start with postgresql:// or sqlite:///, as in "
                "postgresql://user:password@host:5432/name or sqlite:///projkit.db"
            )
        if driver.startswith("sqlite") and rest.lstrip("/").partition("?")[0] in {"", ":memory:"}:
            raise ValueError("SQLite needs a file, as in sqlite:///projkit.db; memory is lost between connections")
        return f"{driver}://{rest}"

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MINIMUM_SECRET_BYTES:
            raise ValueError(f"must have at least {MINIMUM_SECRET_BYTES} bytes; make one with: {_NEW_SECRET}")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.secret is not None and self.keys_file is not None:
            raise ValueError("SECRET and KEYS_FILE are both set; keep one of them")
        if self.env == "production" and self.secret is None and self.keys_file is None:
            raise ValueError(f"SECRET must be set in production (or KEYS_FILE); make one with: {_NEW_SECRET}")
        return self

    @property
    def dialect(self) -> Literal["postgresql", "sqlite"]:
        """The database's SQLAlchemy dialect name."""
        return "postgresql" if self.database_url.startswith("postgresql") else "sqlite"

    @property
    def embedded(self) -> bool:
        """Whether the database is the embedded one, which migrates itself at start-up."""
        return self.dialect == "sqlite"

    @property
    def sqlite_path(self) -> Path:
        """The embedded database's file."""
        rest = self.database_url.partition("://")[2].partition("?")[0]
        return Path(rest.removeprefix("/"))


def unknown_variables(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """``PROJKIT_`` variables that no setting reads, each with the nearest name there is."""
    known = [ENV_PREFIX + name.upper() for name in Settings.model_fields]
    found: list[tuple[str, str | None]] = []
    for name in sorted(environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known and not _NOT_OURS.fullmatch(name):
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
            found.append((name, nearest[0] if nearest else None))
    return found


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ")
        name = ".".join(str(part) for part in problem["loc"][:1])
        lines.append(f"{ENV_PREFIX}{name.upper()}: {message}" if name else message)
    return "; ".join(lines)
