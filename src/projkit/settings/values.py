"""Types of setting values; each error message says what is wrong and how to fix it."""

import ipaddress
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import unquote, urlsplit

from limits import parse as parse_limit
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from projkit.known_secrets import is_known
from projkit.settings.postgresql_url import parse_postgresql_url, require_writable_target

MINIMUM_SECRET_BYTES: Final = 32
NEW_SECRET: Final = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105  # a command
UNIX_SOCKETS: Final = "unix"  # in the list of trusted proxies: whatever connects over a Unix socket
_SCHEMA_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")  # urlsplit removes some of them
_UNUSABLE: Final = re.compile(r"[;\\]|%(?![0-9A-Fa-f]{2})")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class OidcProvider(BaseModel):
    """The configuration of an OpenID provider for logins."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: str
    client_id: str = Field(min_length=1)
    client_secret: SecretStr | None = None
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    granted: tuple[str, ...] = ("projects:read", "projects:write")


def _read_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _read_secrets(value: object) -> object:
    # One secret, or a JSON list with the newest last; not separated by commas, which a secret can contain.
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if not isinstance(value, str):
        return value or ()
    if value.startswith("["):
        return json.loads(value)
    return (value,) if value else ()


def _check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for each in value:
        parts = urlsplit(each)
        if each != "*" and (parts.scheme not in _DEFAULT_PORTS or not parts.hostname or each.count("/") != 2):
            raise ValueError(
                f"{each!r} is not an origin; use scheme and host, such as https://app.example.com"
            )
    return tuple(each if each == "*" else origin_of(each) for each in value)


def _check_proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    for each in set(value) - {UNIX_SOCKETS}:
        try:
            ipaddress.ip_network(each, strict=False)
        except ValueError:
            raise ValueError(
                f"{each!r} is not an IP address or network; use one such as 10.0.0.0/8, or unix for Unix sockets"
            ) from None
    return value


def _check_url(value: str) -> str:
    if value and (urlsplit(value).scheme not in _DEFAULT_PORTS or not urlsplit(value).hostname):
        raise ValueError("must be an absolute URL, such as https://app.example.com")
    return value


def _check_public_url(value: str) -> str:
    value = value.rstrip("/")
    parts = urlsplit(value)
    if parts.query or parts.fragment:
        raise ValueError("must have no query or fragment, as in https://example.com/kit")
    if {"", ".", ".."} & set(unquote(parts.path).split("/")[1:]):
        raise ValueError("its path must have no empty segment, . or .., as in https://example.com/kit")
    if not _is_usable(value, parts.path):
        raise ValueError(
            "its path must have no semicolon (which ends the path of a cookie), no backslash or encoded slash, no "
            "space or control character, and no % except before two digits of UTF-8, as in https://example.com/@a/caf%C3%A9"
        )
    return value


def _is_usable(url: str, path: str) -> bool:
    """Return whether a browser can request the path as it is written, and a cookie can have it."""
    if _CONTROL.search(url) or _UNUSABLE.search(path):
        return False
    try:
        decoded = unquote(path, errors="strict")
    except UnicodeDecodeError:
        return False
    return decoded.isprintable() and decoded.count("/") == path.count("/") and "\\" not in decoded


def _check_root_path(value: str) -> str:
    return _check_prefix(value.rstrip("/"), "/kit") if value.rstrip("/") else ""


def _check_limit(value: str) -> str:
    try:
        amount = parse_limit(value).amount
    except ValueError:
        amount = 0
    if amount < 1:
        raise ValueError("must be a number per time, such as 10/5 minutes or 60/minute")
    return value


def _assume_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def _check_redis_url(value: SecretStr | None) -> SecretStr | None:
    schemes = {"redis", "rediss", "redis+sentinel", "redis+cluster"}
    if value is None or not value.get_secret_value():
        return None
    if urlsplit(value.get_secret_value()).scheme not in schemes:
        raise ValueError(
            "must start with redis://, rediss://, redis+sentinel:// or redis+cluster://, for example "
            "redis://127.0.0.1:6379/0"
        )
    return value


def _check_metrics_token(value: SecretStr | None) -> SecretStr | None:
    if value is None or not value.get_secret_value():
        return None
    if len(value.get_secret_value()) < MINIMUM_SECRET_BYTES:
        raise ValueError(
            f"must have at least {MINIMUM_SECRET_BYTES} characters; generate one with: {NEW_SECRET}"
        )
    return value


def _check_prefix(value: str, example: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
        raise ValueError(f"must start with / and must not end with it, for example {example}")
    return value


_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}


def _name_driver(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    # An application has one URL, for the driver of its own.
    driver = _DRIVERS.get(scheme.partition("+")[0])
    if not separator or driver is None:
        raise ValueError(
            "must start with postgresql:// or sqlite:///, for example "
            "postgresql://user:password@host:5432/name or sqlite:///projkit.db"
        )
    if driver.startswith("postgresql"):
        require_writable_target(parse_postgresql_url(value))
    if driver.startswith("sqlite") and rest.lstrip("/").partition("?")[0] in {"", ":memory:"}:
        raise ValueError(
            "SQLite requires a file, such as sqlite:///projkit.db; an in-memory database is lost between connections"
        )
    return f"{driver}://{rest}"


def _check_schema(value: str) -> str:
    if value and not _SCHEMA_NAME.fullmatch(value):
        raise ValueError(
            "must begin with a lower-case letter or _, followed by at most 62 lower-case letters, digits or _, "
            "for example projkit"
        )
    if value.startswith("pg_") or value == "information_schema":
        raise ValueError("is reserved for PostgreSQL itself; choose another, for example projkit")
    return value


def _check_secret(value: SecretStr) -> SecretStr:
    _check_hmac_secret(value)
    return value


def _check_legacy_secrets(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for each in value:
        _check_hmac_secret(each, "; also set it where the legacy tokens are issued")
    return value


def origin_of(url: str) -> str:
    """Return the origin of a URL, serialized as in browsers: lower case, without a default port (RFC 6454 §6.2)."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def _check_hmac_secret(value: SecretStr, instruction: str = "") -> None:
    raw = value.get_secret_value().encode()
    fix = f"generate one with: {NEW_SECRET}{instruction}"
    if len(raw.strip()) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"must have at least {MINIMUM_SECRET_BYTES} bytes; {fix}")
    if is_known(raw):
        raise ValueError(f"is a published secret that attackers try first; {fix}")


Seconds = Annotated[float, Field(gt=0, le=86_400)]
TokenName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")]  # RFC 9110 §5.6.2
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_read_list)]
Origins = Annotated[Names, AfterValidator(_check_origins)]
Networks = Annotated[Names, AfterValidator(_check_proxies)]
Url = Annotated[str, AfterValidator(_check_url)]
PublicUrl = Annotated[Url, AfterValidator(_check_public_url)]
Limit = Annotated[str, AfterValidator(_check_limit)]
Time = Annotated[datetime, AfterValidator(_assume_utc)]
RedisUrl = Annotated[SecretStr | None, AfterValidator(_check_redis_url)]
MetricsToken = Annotated[SecretStr | None, AfterValidator(_check_metrics_token)]
PathPrefix = Annotated[str, AfterValidator(lambda value: _check_prefix(value, "/api/v1"))]
RootPath = Annotated[str, AfterValidator(_check_root_path)]
DatabaseSchema = Annotated[str, AfterValidator(_check_schema)]
DatabaseUrl = Annotated[str, AfterValidator(_name_driver)]
HmacSecret = Annotated[SecretStr, AfterValidator(_check_secret)]
LegacySecrets = Annotated[
    tuple[SecretStr, ...], NoDecode, BeforeValidator(_read_secrets), AfterValidator(_check_legacy_secrets)
]
