"""The settings of a kit."""

import os
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, model_validator

from projkit.errors import ConfigurationError
from projkit.known_secrets import FOR_TESTS
from projkit.settings.postgresql_url import is_postgresql, parse_postgresql_url
from projkit.settings.tables import SCHEMA_REQUIRES_POSTGRESQL, TableSettings
from projkit.settings.values import (
    NEW_SECRET,
    DatabaseUrl,
    HmacSecret,
    LegacySecrets,
    Limit,
    MetricsToken,
    Names,
    Networks,
    OidcProvider,
    Origins,
    PathPrefix,
    PublicUrl,
    RedisUrl,
    RootPath,
    Seconds,
    Time,
    TokenName,
    Url,
    origin_of,
)
from projkit.settings.variables import UnknownSettingWarning, describe_unknown_variables

_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}


class Settings(TableSettings):
    """The settings of a kit. Every field can be set as the environment variable ``PROJKIT_<FIELD>``.

    Raises:
        ConfigurationError: a value is invalid; the message names the setting and the fix.
    """

    env: Literal["development", "production"] = "development"

    database_url: DatabaseUrl = "sqlite+aiosqlite:///projkit.db"
    database_mode: Literal["fast", "transactional"] = "fast"
    database_pool_size: int = Field(default=10, ge=1, le=1000)
    database_connect_seconds: Seconds = 3.0
    database_pool_wait_seconds: Seconds = 3.0
    database_statement_seconds: Seconds = 5.0
    database_connection_max_seconds: float = Field(default=1800.0, ge=0, le=86_400)

    api_prefix: PathPrefix = "/api/v1"
    metrics_path: str = Field(default="/metrics", pattern=r"^(/[A-Za-z0-9._~-]+)+$")
    secret: HmacSecret | None = None
    keys_file: Path | None = None
    issuer: str = Field(default="projkit", min_length=1, max_length=255)
    audience: str = Field(default="projkit", min_length=1, max_length=255)
    access_token_seconds: int = Field(default=900, ge=1, le=31_536_000)
    tenant_claim: str = Field(default="", max_length=255)

    redis_url: RedisUrl = None
    redis_prefix: str = Field(default="projkit:", pattern=r"^[^{}\s]{0,64}$")
    session_store: Literal["redis", "database"] | None = None
    session_idle_seconds: int = Field(default=86_400, ge=1, le=31_536_000)
    session_max_seconds: int = Field(default=2_592_000, ge=1, le=31_536_000)
    max_sessions_per_subject: int = Field(default=100, ge=0, le=100_000)
    session_cache_seconds: float = Field(default=0.5, ge=0, le=1)

    still_valid_cache_seconds: float = Field(default=30.0, ge=0, le=3600)

    celery_broker_url: SecretStr | None = None

    legacy_secret: LegacySecrets = ()
    legacy_max_age_seconds: int = Field(default=2_592_000, ge=1, le=315_360_000)
    legacy_deprecated_at: Time = datetime(2026, 1, 1, tzinfo=UTC)
    legacy_sunset: Time | None = None
    legacy_cookie_domain: str = Field(default="", pattern=r"^[A-Za-z0-9.-]*$")

    cookie_secure: bool | None = None
    cookie_host_prefix: bool = False
    csrf_mode: Literal["signed", "origin"] = "signed"
    csrf_header_name: TokenName = "X-CSRF-Token"
    csrf_cookie_name: TokenName = "csrf_token"
    public_url: PublicUrl = ""
    root_path: RootPath = ""
    trusted_proxies: Networks = ()

    login_limit_account: Limit = "10/5 minutes"
    login_limit_address: Limit = "60/minute"
    registration: Literal["closed", "open"] = "closed"
    row_level_security: bool = False

    oidc_providers: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")], OidcProvider] = Field(
        default={}
    )
    oidc_resource_issuer: Url = ""
    oidc_resource_audience: str = ""

    cleanup: bool = True
    deleted_projects_seconds: int = Field(default=2_592_000, ge=0, le=3_153_600_000)

    max_body_bytes: int = Field(default=1_048_576, ge=1024, le=1_073_741_824)
    request_timeout_seconds: Seconds = 30.0
    max_concurrent_requests: int = Field(default=100, ge=0, le=100_000)
    max_queued_requests: int = Field(default=1000, ge=0, le=1_000_000)
    queue_seconds: Seconds = 1.5
    require_if_match: bool = False
    put_mode: Literal["replace", "merge"] = "replace"

    health_details: Literal["always", "authorized", "never"] | None = None
    health_critical: Names | None = None
    health_root_paths: bool = False
    slow_request_seconds: Seconds = 2.0
    metrics_token: MetricsToken = None
    metrics_directory: Path | None = None

    allowed_origins: Origins = ()
    drain_seconds: float = Field(default=2.0, ge=0, le=3600)
    keep_alive_seconds: int = Field(default=75, ge=1, le=3600)
    access_log: bool = True
    access_log_probes: bool = False
    log_client_address: bool = False
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    log_format: Literal["console", "json"] = "console"
    freeze_gc: bool = True

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        for warning in describe_unknown_variables(os.environ, type(self).model_fields):
            warnings.warn(warning, UnknownSettingWarning, stacklevel=2)

    @model_validator(mode="before")
    @classmethod
    def _read_database_url(cls, values: Any) -> Any:
        """Take the settings that are not set from the parameters of the database's URL."""
        url = values.get("database_url")
        if not isinstance(url, str) or not is_postgresql(url):
            return values
        with suppress(ValueError):  # the field's own validation reports it
            return {**parse_postgresql_url(url).setting_defaults, **values}
        return values

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.secret is not None and self.keys_file is not None:
            raise ValueError("PROJKIT_SECRET and PROJKIT_KEYS_FILE are both set; keep one of them")
        if self.secret in self.legacy_secret:
            raise ValueError(
                "PROJKIT_SECRET and PROJKIT_LEGACY_SECRET are the same, so a holder of the legacy secret could forge "
                f"new tokens; generate another PROJKIT_SECRET with: {NEW_SECRET}"
            )
        if self.cookie_host_prefix and self.cookie_secure is False:
            raise ValueError(
                "PROJKIT_COOKIE_HOST_PREFIX requires Secure cookies; unset PROJKIT_COOKIE_SECURE"
            )
        if self.oidc_providers and not self.public_url:
            raise ValueError(
                "PROJKIT_OIDC_PROVIDERS requires PROJKIT_PUBLIC_URL; set it to the URL of the kit in browsers, "
                "such as https://app.example.com (including the mount path, if any)"
            )
        self._check_root_path()
        self._check_database_url()
        if self.oidc_resource_issuer == self.issuer:
            raise ValueError(
                "PROJKIT_OIDC_RESOURCE_ISSUER must differ from PROJKIT_ISSUER: the issuer of a token selects its keys"
            )
        if self.oidc_resource_issuer and not self.oidc_resource_audience:
            raise ValueError("PROJKIT_OIDC_RESOURCE_ISSUER requires PROJKIT_OIDC_RESOURCE_AUDIENCE; set it")
        for issuer in [self.oidc_resource_issuer, *(each.issuer for each in self.oidc_providers.values())]:
            self._check_issuer(issuer)
        if 0 < self.max_concurrent_requests < self.database_pool_size:
            raise ValueError(
                f"PROJKIT_MAX_CONCURRENT_REQUESTS ({self.max_concurrent_requests}) is less than "
                f"PROJKIT_DATABASE_POOL_SIZE ({self.database_pool_size}), so connections would be idle while requests "
                "are queued; raise it, lower the pool size, or set it to 0 for no limit"
            )
        if self.env == "production":
            self._check_production()
        return self

    def _check_root_path(self) -> None:
        if self.root_path and self.public_url and self.public_path != self.root_path:
            url = origin_of(self.public_url) + self.root_path
            raise ValueError(
                f"PROJKIT_ROOT_PATH (--root-path) is {self.root_path}, but PROJKIT_PUBLIC_URL is {self.public_base}; "
                f"set PROJKIT_PUBLIC_URL={url}, or omit the root path if PROJKIT_PUBLIC_URL is right"
            )

    def _check_database_url(self) -> None:
        if self.embedded:
            return
        url = parse_postgresql_url(self.database_url)
        if "database_mode" in url.setting_defaults and self.database_mode == "fast":
            raise ValueError(
                "PROJKIT_DATABASE_URL has pgbouncer=true, but PROJKIT_DATABASE_MODE is fast; unset it, or set it to "
                "transactional"
            )
        if url.schema not in (None, self.database_schema or "public"):
            raise ValueError(
                f"PROJKIT_DATABASE_URL: the parameter schema={url.schema} differs from PROJKIT_DATABASE_SCHEMA, which "
                "selects the schema; set that one, and remove the parameter"
            )

    def require_servers(self, *, host_engine: bool = False, host_redis: bool = False) -> None:
        """Check that there are the servers that other settings need; a host's engine and client replace the URLs.

        Raises:
            ConfigurationError: PROJKIT_DATABASE_URL or PROJKIT_REDIS_URL is required.
        """
        if self.row_level_security and self.dialect != "postgresql" and not host_engine:
            raise ConfigurationError(
                "PROJKIT_ROW_LEVEL_SECURITY requires PostgreSQL; unset it or set PROJKIT_DATABASE_URL"
            )
        if self.database_schema and self.embedded and not host_engine:
            raise ConfigurationError(SCHEMA_REQUIRES_POSTGRESQL)
        if self.session_store == "redis" and self.redis_url is None and not host_redis:
            raise ConfigurationError(
                "PROJKIT_SESSION_STORE is redis, but PROJKIT_REDIS_URL is not set; "
                "set it, for example to redis://127.0.0.1:6379/0"
            )

    def _check_issuer(self, issuer: str) -> None:
        parts = urlsplit(issuer)
        plain = parts.scheme == "http" and parts.hostname in _LOOPBACK and self.env == "development"
        if issuer and not (parts.hostname and (parts.scheme == "https" or plain)):
            raise ValueError(
                f"the issuer {issuer} must be an https URL (http is allowed only on loopback, in development)"
            )
        if parts.query or parts.fragment:  # OpenID Connect Discovery 1.0 §3
            raise ValueError(f"the issuer {issuer} must not have a query or fragment")

    def _check_production(self) -> None:
        if self.secret is None and self.keys_file is None:
            raise ValueError(
                "PROJKIT_SECRET must be set in production (or PROJKIT_KEYS_FILE); "
                f"generate one with: {NEW_SECRET}"
            )
        for name, secrets in (("SECRET", (self.secret,)), ("LEGACY_SECRET", self.legacy_secret)):
            if any(each is not None and each.get_secret_value() == FOR_TESTS for each in secrets):
                raise ValueError(
                    f"PROJKIT_{name} is the public secret of projkit.testing; generate one with: {NEW_SECRET}"
                )
        if self.cookie_secure is False:
            raise ValueError(
                "PROJKIT_COOKIE_SECURE must not be false in production; unset it and serve over https"
            )
        if "*" in self.allowed_origins:
            raise ValueError(
                "PROJKIT_ALLOWED_ORIGINS must not be * in production, because cookies are credentials; "
                "list each origin, such as https://app.example.com"
            )
        if self.public_url.startswith("http://"):
            raise ValueError("PROJKIT_PUBLIC_URL must be an https URL in production")

    @property
    def session_backend(self) -> Literal["redis", "database"]:
        """The session store: SESSION_STORE if set, otherwise Redis if configured."""
        return self.session_store or ("redis" if self.redis_url is not None else "database")

    @property
    def public_path(self) -> str | None:
        """The path below which browsers find the kit: that of PUBLIC_URL, or ROOT_PATH; None if neither is set."""
        if self.public_url:
            return unquote(self.public_path_as_written)
        return self.root_path or None

    @property
    def public_path_as_written(self) -> str:
        """The path of PUBLIC_URL with its percent-encoding; empty if it is not set."""
        return urlsplit(self.public_url).path

    @property
    def public_base(self) -> str:
        """PUBLIC_URL without a user name and a password, which nothing should request or print."""
        return origin_of(self.public_url) + urlsplit(self.public_url).path if self.public_url else ""

    @property
    def effective_health_details(self) -> Literal["always", "authorized", "never"]:
        """The callers that get health details: by default all in development, authorized ones in production."""
        return self.health_details or ("authorized" if self.env == "production" else "always")

    @property
    def dialect(self) -> Literal["postgresql", "sqlite"]:
        """The database's SQLAlchemy dialect name."""
        return "postgresql" if self.database_url.startswith("postgresql") else "sqlite"

    @property
    def embedded(self) -> bool:
        """Whether the database is embedded (SQLite), which is migrated at start-up."""
        return self.dialect == "sqlite"

    @property
    def sqlite_path(self) -> Path:
        """The file of the embedded database."""
        rest = self.database_url.partition("://")[2].partition("?")[0]
        return Path(unquote(rest.removeprefix("/")))
