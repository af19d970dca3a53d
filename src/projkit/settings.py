"""Settings: ``PROJKIT_*`` variables, or keyword arguments of :class:`Settings`."""

import difflib
import ipaddress
import json
import os
import re
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

from limits import parse as parse_limit
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from projkit.errors import ConfigurationError
from projkit.known_secrets import FOR_TESTS, is_known

ENV_PREFIX: Final = "PROJKIT_"
MINIMUM_SECRET_BYTES: Final = 32
_NEW_SECRET: Final = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105  # a command
# What Kubernetes injects for a service called projkit, and what tests and load suites use.
_NOT_OURS: Final = re.compile(r"PROJKIT_(SERVICE_.*|PORT(_.*)?|REQUIRE_SERVICES|LOAD_.*|TEST_.*)")

_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Names = Annotated[tuple[str, ...], NoDecode]
TokenName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")]  # RFC 9110 §5.6.2


class OidcProvider(BaseModel):
    """One OpenID provider that users log in with."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: str
    client_id: str = Field(min_length=1)
    client_secret: SecretStr | None = None
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    granted: tuple[str, ...] = ("projects:read", "projects:write")


class UnknownSettingWarning(UserWarning):
    """A ``PROJKIT_`` variable that no setting reads: most often a misspelt name."""


class Settings(BaseSettings):
    """How a kit behaves. Every field may also be set as the environment variable ``PROJKIT_<FIELD>``.

    Raises:
        ConfigurationError: a value is wrong; the message names the setting and the mend.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    env: Literal["development", "production"] = "development"

    database_url: str = "sqlite+aiosqlite:///projkit.db"
    database_mode: Literal["fast", "transactional"] = "fast"
    database_pool_size: int = Field(default=10, ge=1, le=1000)
    database_connect_seconds: Seconds = 3.0
    database_pool_wait_seconds: Seconds = 3.0
    database_statement_seconds: Seconds = 5.0
    table_prefix: str = Field(default="projkit_", pattern=r"^[a-z_][a-z0-9_]{0,29}$")

    api_prefix: str = "/api/v1"
    metrics_path: str = Field(default="/metrics", pattern=r"^(/[A-Za-z0-9._~-]+)+$")
    secret: SecretStr | None = None
    keys_file: Path | None = None
    issuer: str = Field(default="projkit", min_length=1, max_length=255)
    audience: str = Field(default="projkit", min_length=1, max_length=255)
    access_token_seconds: int = Field(default=900, ge=1, le=31_536_000)
    tenant_claim: str = Field(default="", max_length=255)

    redis_url: SecretStr | None = None
    redis_prefix: str = Field(default="projkit:", pattern=r"^[^{}\s]{0,64}$")
    session_store: Literal["redis", "database"] | None = None
    session_idle_seconds: int = Field(default=86_400, ge=1, le=31_536_000)
    session_max_seconds: int = Field(default=2_592_000, ge=1, le=31_536_000)
    session_cache_seconds: float = Field(default=0.5, ge=0, le=1)

    celery_broker_url: SecretStr | None = None

    legacy_secret: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    legacy_max_age_seconds: int = Field(default=2_592_000, ge=1, le=315_360_000)
    legacy_deprecated_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    legacy_sunset: datetime | None = None
    legacy_cookie_domain: str = Field(default="", pattern=r"^[A-Za-z0-9.-]*$")

    cookie_secure: bool | None = None
    cookie_host_prefix: bool = False
    csrf_mode: Literal["signed", "origin"] = "signed"
    csrf_header_name: TokenName = "X-CSRF-Token"
    csrf_cookie_name: TokenName = "csrf_token"
    public_url: str = ""
    trusted_proxies: Names = ()

    login_limit_account: str = "10/5 minutes"
    login_limit_address: str = "60/minute"
    registration: Literal["closed", "open"] = "closed"
    row_level_security: bool = False

    oidc_providers: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")], OidcProvider] = {}
    oidc_resource_issuer: str = ""
    oidc_resource_audience: str = ""

    max_body_bytes: int = Field(default=1_048_576, ge=1024, le=1_073_741_824)
    request_timeout_seconds: Seconds = 30.0
    require_if_match: bool = False
    put_mode: Literal["replace", "merge"] = "replace"

    health_details: Literal["always", "authorized", "never"] | None = None
    health_critical: Names | None = None
    health_root_paths: bool = False
    slow_request_seconds: Seconds = 2.0
    metrics_token: SecretStr | None = None
    metrics_directory: Path | None = None

    allowed_origins: Names = ()
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

    @field_validator("allowed_origins", "trusted_proxies", "health_critical", mode="before")
    @classmethod
    def _read_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("legacy_secret", mode="before")
    @classmethod
    def _read_secrets(cls, value: object) -> object:
        # One secret as it is, or a JSON list, newest last: a comma may well be part of a secret.
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if not isinstance(value, str):
            return value or ()
        if value.startswith("["):
            return json.loads(value)
        return (value,) if value else ()

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            parts = urlsplit(each)
            if each != "*" and (
                parts.scheme not in _DEFAULT_PORTS or not parts.hostname or each.count("/") != 2
            ):
                raise ValueError(
                    f"{each!r} is not an origin; write scheme and host, as in https://app.example.com"
                )
        return tuple(each if each == "*" else origin_of(each) for each in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ipaddress.ip_network(each, strict=False)
            except ValueError:
                raise ValueError(f"{each!r} is not an address or a network, as in 10.0.0.0/8") from None
        return value

    @field_validator("public_url", "oidc_resource_issuer")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in _DEFAULT_PORTS or not urlsplit(value).hostname):
            raise ValueError("must be an absolute URL, as in https://app.example.com")
        return value

    @field_validator("public_url")
    @classmethod
    def _drop_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("login_limit_account", "login_limit_address")
    @classmethod
    def _check_limit(cls, value: str) -> str:
        try:
            amount = parse_limit(value).amount
        except ValueError:
            amount = 0
        if amount < 1:
            raise ValueError("must be a number per time, as in 10/5 minutes or 60/minute")
        return value

    @field_validator("legacy_deprecated_at", "legacy_sunset")
    @classmethod
    def _assume_utc(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = {"redis", "rediss", "redis+sentinel", "redis+cluster"}
        if value is None or not value.get_secret_value():
            return None
        if urlsplit(value.get_secret_value()).scheme not in schemes:
            raise ValueError(
                "must start with redis://, rediss://, redis+sentinel:// or redis+cluster://, as in "
                "redis://127.0.0.1:6379/0"
            )
        return value

    @field_validator("metrics_token")
    @classmethod
    def _check_metrics_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if len(value.get_secret_value()) < MINIMUM_SECRET_BYTES:
            raise ValueError(
                f"must have at least {MINIMUM_SECRET_BYTES} characters; make one with: {_NEW_SECRET}"
            )
        return value

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
        try:
            _ = urlsplit(value).port
        except ValueError:
            raise ValueError(
                "the port must be a number, as in postgresql://user:password@host:5432/name "
                "(write @, : and / in a password as %40, %3A and %2F)"
            ) from None
        if driver.startswith("sqlite") and rest.lstrip("/").partition("?")[0] in {"", ":memory:"}:
            raise ValueError(
                "SQLite needs a file, as in sqlite:///projkit.db; memory is lost between connections"
            )
        return f"{driver}://{rest}"

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_hmac_secret(value)
        return value

    @field_validator("legacy_secret")
    @classmethod
    def _check_legacy_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for each in value:
            _check_hmac_secret(each, "; set it where the legacy tokens are made as well")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.secret is not None and self.keys_file is not None:
            raise ValueError("PROJKIT_SECRET and PROJKIT_KEYS_FILE are both set; keep one of them")
        if self.secret in self.legacy_secret:
            raise ValueError(
                "PROJKIT_SECRET and PROJKIT_LEGACY_SECRET are the same, and whoever knows the old one could make new "
                f"tokens; make another PROJKIT_SECRET with: {_NEW_SECRET}"
            )
        if self.session_store == "redis" and self.redis_url is None:
            raise ValueError(
                "PROJKIT_SESSION_STORE is redis, but PROJKIT_REDIS_URL is not set; "
                "set it, as in redis://127.0.0.1:6379/0"
            )
        if self.cookie_host_prefix and self.cookie_secure is False:
            raise ValueError("PROJKIT_COOKIE_HOST_PREFIX needs Secure cookies; unset PROJKIT_COOKIE_SECURE")
        if self.oidc_providers and not self.public_url:
            raise ValueError(
                "PROJKIT_PUBLIC_URL must be set for PROJKIT_OIDC_PROVIDERS, to the address that browsers see, "
                "as in https://app.example.com (with the path of the mount, if there is one)"
            )
        if self.oidc_resource_issuer == self.issuer:
            raise ValueError(
                "PROJKIT_OIDC_RESOURCE_ISSUER must not be PROJKIT_ISSUER: who made a token decides its keys"
            )
        if self.oidc_resource_issuer and not self.oidc_resource_audience:
            raise ValueError("PROJKIT_OIDC_RESOURCE_AUDIENCE must be set with PROJKIT_OIDC_RESOURCE_ISSUER")
        for issuer in [self.oidc_resource_issuer, *(each.issuer for each in self.oidc_providers.values())]:
            self._check_issuer(issuer)
        if self.row_level_security and self.dialect != "postgresql":
            raise ValueError(
                "PROJKIT_ROW_LEVEL_SECURITY needs PostgreSQL; unset it or set PROJKIT_DATABASE_URL"
            )
        if self.env == "production":
            self._check_production()
        return self

    def _check_issuer(self, issuer: str) -> None:
        parts = urlsplit(issuer)
        plain = parts.scheme == "http" and parts.hostname in _LOOPBACK and self.env == "development"
        if issuer and not (parts.hostname and (parts.scheme == "https" or plain)):
            raise ValueError(
                f"the issuer {issuer} must be an https URL (http only on loopback, in development)"
            )
        if parts.query or parts.fragment:  # OpenID Connect Discovery 1.0 §3
            raise ValueError(f"the issuer {issuer} must have neither query nor fragment")

    def _check_production(self) -> None:
        if self.secret is None and self.keys_file is None:
            raise ValueError(
                "PROJKIT_SECRET must be set in production (or PROJKIT_KEYS_FILE); "
                f"make one with: {_NEW_SECRET}"
            )
        for name, secrets in (("SECRET", (self.secret,)), ("LEGACY_SECRET", self.legacy_secret)):
            if any(each is not None and each.get_secret_value() == FOR_TESTS for each in secrets):
                raise ValueError(
                    f"PROJKIT_{name} is the secret of projkit.testing, which everybody can read; "
                    f"make one with: {_NEW_SECRET}"
                )
        if self.cookie_secure is False:
            raise ValueError(
                "PROJKIT_COOKIE_SECURE must not be off in production; unset it and serve over https"
            )
        if "*" in self.allowed_origins:
            raise ValueError(
                "PROJKIT_ALLOWED_ORIGINS must not be * in production, since cookies are credentials; "
                "name each origin, as in https://app.example.com"
            )
        if self.public_url.startswith("http://"):
            raise ValueError("PROJKIT_PUBLIC_URL must be an https URL in production")

    @property
    def session_backend(self) -> Literal["redis", "database"]:
        """Where sessions are kept: in Redis where there is one, unless SESSION_STORE says otherwise."""
        return self.session_store or ("redis" if self.redis_url is not None else "database")

    @property
    def shows_health_details(self) -> Literal["always", "authorized", "never"]:
        """To whom health says more than its state: in production only to those who may read it."""
        return self.health_details or ("authorized" if self.env == "production" else "always")

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
        return Path(unquote(rest.removeprefix("/")))


def origin_of(url: str) -> str:
    """The origin of a URL as browsers write it (RFC 6454 §6.2): lower case, without a default port."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def _check_hmac_secret(value: SecretStr, more: str = "") -> None:
    raw = value.get_secret_value().encode()
    mend = f"make one with: {_NEW_SECRET}{more}"
    if len(raw.strip()) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"must have at least {MINIMUM_SECRET_BYTES} bytes; {mend}")
    if is_known(raw):
        raise ValueError(f"is a secret that attackers try first; {mend}")


def unknown_variables(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """``PROJKIT_`` variables that no setting reads, each with the nearest name there is."""
    known = [ENV_PREFIX + name.upper() for name in Settings.model_fields]
    found: list[tuple[str, str | None]] = []
    for name in sorted(environ):
        if (
            name.upper().startswith(ENV_PREFIX)
            and name.upper() not in known
            and not _NOT_OURS.fullmatch(name)
        ):
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
