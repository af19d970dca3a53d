"""Settings that are rejected: weak and known secrets, and in production whatever is only for development."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import SecretStr, TypeAdapter

from projkit import ProjKit, Settings
from projkit.errors import ConfigurationError
from projkit.known_secrets import FOR_TESTS, is_known
from projkit.settings import MINIMUM_SECRET_BYTES
from projkit.settings.values import HmacSecret, LegacySecrets
from projkit.testing import SECRET as TEST_SECRET
from tests.conftest import SECRET
from tests.corpora import ROOT, corpus_file

LIST: Final = corpus_file("jwt-secrets/jwt.secrets.list")
NEW_SECRET: Final = "python3 -c 'import secrets"
OTHER_SECRET: Final = "another secret of the tests, also long enough"


def rejection_of(**settings: Any) -> str:
    """Return the message with which settings are rejected, and check that it contains no secret."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(**settings)
    for name in ("secret", "legacy_secret"):
        value = str(settings.get(name, ""))
        assert not value.strip() or value not in caught.value.detail.replace(NEW_SECRET, "")
    return caught.value.detail


WEAK: Final = ("x" * 31, " " * 40, f" {'x' * 31}\n", "REPLACE THIS WITH YOUR JWT SECRET\n")


@pytest.mark.parametrize(
    ("name", "secret"),
    [("secret", ""), *((name, secret) for name in ("secret", "legacy_secret") for secret in WEAK)],
)
def test_weak_secrets(name: str, secret: str) -> None:
    """A secret that is too short or well known is rejected, with a command that generates one."""
    said = rejection_of(**{name: secret})
    assert said.startswith(f"PROJKIT_{name.upper()}: ")
    assert NEW_SECRET in said
    assert ("where the legacy tokens are issued" in said) == (name == "legacy_secret")


def test_one_weak_secret_of_several() -> None:
    """Each of several legacy secrets is checked."""
    for secrets in ([SECRET, "short"], ["short", SECRET]):
        assert rejection_of(legacy_secret=json.dumps(secrets)).startswith("PROJKIT_LEGACY_SECRET: ")


def test_suggested_command() -> None:
    """The command in the message generates a valid secret."""
    command = rejection_of(secret="short").partition("python3 -c '")[2].partition("'")[0]
    made: list[str] = []
    exec(command.replace("print(", "made.append("), {"made": made})
    assert Settings(env="production", secret=made[0]).secret is not None


def secrets() -> list[bytes]:
    """Return the entries of the published list."""
    return LIST.read_bytes().split(b"\n")


_SECRET: Final[TypeAdapter[SecretStr]] = TypeAdapter(HmacSecret)
_LEGACY_SECRETS: Final[TypeAdapter[tuple[SecretStr, ...]]] = TypeAdapter(LegacySecrets)
CHECKS: Final[tuple[Callable[[str], object], ...]] = (
    _SECRET.validate_python,
    lambda value: _LEGACY_SECRETS.validate_python((value,)),
)


def test_every_published_secret() -> None:
    """Each of more than 100,000 published secrets is rejected by both settings."""
    entries = {entry.decode() for entry in secrets()}
    assert len(entries) > 100_000
    taken = []
    for entry in entries:
        for check in CHECKS:
            try:
                check(entry)
            except ValueError:
                continue
            taken.append(entry)
    assert taken == []


def test_every_long_published_secret() -> None:
    """Published secrets of sufficient length are rejected as known."""
    entries = {entry.decode().strip() for entry in secrets()}
    long = sorted(entry for entry in entries if len(entry.encode()) >= MINIMUM_SECRET_BYTES)
    assert len(long) > 1_500
    assert all(is_known(entry.encode()) for entry in long)
    for entry in long:
        for check in CHECKS:
            with pytest.raises(ValueError, match="attackers try first"):
                check(entry)
    for entry in long[::50]:  # making settings takes a hundred times as long as the checks that they ask
        said = rejection_of(secret=entry, legacy_secret=json.dumps([entry]))
        assert said.count("attackers try first") == 2


def test_digests_match_the_list() -> None:
    """The package's digests match the output of the script for the list."""
    path = ROOT / "scripts/known_secrets.py"
    specification = importlib.util.spec_from_file_location("known_secrets_script", path)
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    shipped = ROOT / "src/projkit/known_secrets.bin"
    assert script.digests(LIST.read_bytes()) == shipped.read_bytes()


def test_random_secrets_are_accepted() -> None:
    """Random secrets are not rejected as known."""
    assert not any(is_known(os.urandom(32)) for _ in range(1000))


GOOD: Final[dict[str, Any]] = {"env": "production", "secret": SECRET}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"secret": None}, ("PROJKIT_SECRET must be set in production", "PROJKIT_KEYS_FILE", NEW_SECRET)),
        ({"secret": TEST_SECRET}, ("PROJKIT_SECRET is the public secret of projkit.testing", NEW_SECRET)),
        (
            {"legacy_secret": FOR_TESTS},
            ("PROJKIT_LEGACY_SECRET is the public secret of projkit.testing", NEW_SECRET),
        ),
        (
            {"cookie_secure": False},
            ("PROJKIT_COOKIE_SECURE must not be false", "unset it and serve over https"),
        ),
        ({"allowed_origins": ["*"]}, ("PROJKIT_ALLOWED_ORIGINS must not be *", "https://app.example.com")),
        (
            {"allowed_origins": ["https://app.example.com", "*"]},
            ("PROJKIT_ALLOWED_ORIGINS must not be *", "https://app.example.com"),
        ),
        ({"public_url": "http://app.example.com"}, ("PROJKIT_PUBLIC_URL must be an https URL",)),
        (
            {"oidc_resource_issuer": "http://127.0.0.1:1", "oidc_resource_audience": "a"},
            ("must be an https URL",),
        ),
    ],
)
def test_rejected_in_production(settings: dict[str, Any], said: tuple[str, ...]) -> None:
    """Production rejects settings that development allows, naming the setting and the fix."""
    message = rejection_of(**{**GOOD, **settings})
    for part in said:
        assert part in message
    if "secret" not in settings:
        Settings(**{**GOOD, **settings, "env": "development"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"secret": SECRET, "legacy_secret": SECRET}, ("PROJKIT_LEGACY_SECRET are the same", NEW_SECRET)),
        (
            {"secret": SECRET, "legacy_secret": json.dumps([OTHER_SECRET, SECRET])},
            ("PROJKIT_LEGACY_SECRET are the same", NEW_SECRET),
        ),
        (
            {"secret": SECRET, "keys_file": "keys.json"},
            ("PROJKIT_SECRET and PROJKIT_KEYS_FILE are both set",),
        ),
        (
            {"cookie_host_prefix": True, "cookie_secure": False},
            ("PROJKIT_COOKIE_HOST_PREFIX", "PROJKIT_COOKIE_SECURE"),
        ),
        ({"allowed_origins": ["app.example.com"]}, ("PROJKIT_ALLOWED_ORIGINS", "https://app.example.com")),
        ({"allowed_origins": ["https://app.example.com/"]}, ("PROJKIT_ALLOWED_ORIGINS", "is not an origin")),
        ({"trusted_proxies": ["proxy"]}, ("PROJKIT_TRUSTED_PROXIES", "10.0.0.0/8")),
        ({"redis_url": "http://x"}, ("PROJKIT_REDIS_URL", "redis://127.0.0.1:6379/0")),
        ({"login_limit_account": "often"}, ("PROJKIT_LOGIN_LIMIT_ACCOUNT", "10/5 minutes")),
        ({"login_limit_address": "0/minute"}, ("PROJKIT_LOGIN_LIMIT_ADDRESS", "60/minute")),
        ({"csrf_header_name": "X CSRF"}, ("PROJKIT_CSRF_HEADER_NAME",)),
    ],
)
@pytest.mark.parametrize("env", ["development", "production"])
def test_rejected_everywhere(env: str, settings: dict[str, Any], said: tuple[str, ...]) -> None:
    """Invalid combinations are rejected in every environment, naming the setting and the fix."""
    message = rejection_of(**{"env": env, "secret": OTHER_SECRET, **settings})
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("settings", "host_has", "message"),
    [
        ({"session_store": "redis"}, "redis", r"PROJKIT_SESSION_STORE .*PROJKIT_REDIS_URL.*redis://127.0.0.1:6379/0"),
        ({"row_level_security": True}, "engine", "PROJKIT_ROW_LEVEL_SECURITY requires PostgreSQL"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("env", ["development", "production"])
def test_servers_are_required_unless_the_host_has_them(
    env: str, settings: dict[str, Any], host_has: str, message: str
) -> None:
    """A setting that needs a server is rejected without its URL, unless the host passes its own engine or client."""
    read = Settings(**{**GOOD, "env": env, **settings})
    with pytest.raises(ConfigurationError, match=message):
        ProjKit(read)
    ProjKit(read, **{host_has: lambda: None})  # type: ignore[arg-type]


def test_valid_production_settings() -> None:
    """Production accepts a good secret, explicit origins and an https URL."""
    settings = Settings(
        **GOOD, legacy_secret=OTHER_SECRET, allowed_origins=["https://App.example.com:443"],
        public_url="https://app.example.com/", cookie_host_prefix=True,
    )  # fmt: skip
    assert settings.allowed_origins == ("https://app.example.com",)


@pytest.mark.anyio
async def test_unusable_keys_prevent_the_start(sqlite_url: str, tmp_path: Path) -> None:
    """A kit with unusable keys does not start, and reports why."""
    kit = ProjKit(Settings(env="production", database_url=sqlite_url, keys_file=tmp_path / "none.json"))
    with pytest.raises(ConfigurationError, match=r"PROJKIT_KEYS_FILE: cannot read .*projkit keys new --file"):
        await kit.startup()
    assert not kit.ready
