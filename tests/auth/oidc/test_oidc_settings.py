"""Settings of OpenID Connect: invalid values are rejected at startup."""

from typing import Any

import pytest

from projkit import Settings
from projkit.errors import ConfigurationError
from tests.conftest import SECRET

PROVIDER = {"issuer": "https://id.example.com", "client_id": "x"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"public_url": ""}, "requires PROJKIT_PUBLIC_URL"),
        ({"public_url": "app.example.com"}, "absolute URL"),
        ({"oidc_providers": {"Corp": PROVIDER}}, "pattern"),
        ({"oidc_providers": {"a/b": PROVIDER}}, "pattern"),
        (
            {"oidc_providers": {"corp": {**PROVIDER, "issuer": "http://id.example.com"}}},
            "must be an https URL",
        ),
        ({"oidc_providers": {"corp": {**PROVIDER, "issuer": "https:///x"}}}, "must be an https URL"),
        (
            {"oidc_providers": {"corp": {**PROVIDER, "issuer": "https://x?y=1"}}},
            "must not have a query or fragment",
        ),
        (
            {"oidc_providers": {"corp": {**PROVIDER, "issuer": "https://x#y"}}},
            "must not have a query or fragment",
        ),
        ({"oidc_providers": {"corp": {**PROVIDER, "client_id": ""}}}, "at least 1 character"),
        ({"oidc_providers": {"corp": {**PROVIDER, "secret": "x"}}}, "Extra inputs"),
        (
            {"oidc_resource_issuer": "http://id.example.com", "oidc_resource_audience": "x"},
            "must be an https URL",
        ),
        ({"oidc_resource_issuer": "https://id.example.com"}, "requires PROJKIT_OIDC_RESOURCE_AUDIENCE"),
        (
            {"oidc_resource_issuer": "https://x", "oidc_resource_audience": "x", "issuer": "https://x"},
            "must differ from PROJKIT_ISSUER",
        ),
        (
            {
                "env": "production",
                "oidc_providers": {"corp": {**PROVIDER, "issuer": "http://localhost:8080"}},
            },
            "must be an https URL",
        ),
    ],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    """Each error message states the problem."""
    values = {"public_url": "https://app.example.com", "oidc_providers": {"corp": PROVIDER}, **changes}
    with pytest.raises(ConfigurationError, match=message):
        Settings(secret=SECRET, **values)


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers are a JSON object in a variable; client secrets are masked; issuers are preserved exactly."""
    monkeypatch.setenv(
        "PROJKIT_OIDC_PROVIDERS",
        '{"corp": {"issuer": "https://corp.example/", "client_id": "x", "client_secret": "hush"}}',
    )
    settings = Settings(
        secret=SECRET,
        public_url="https://app.example.com/kit/",
        oidc_resource_issuer="https://corp.example/",
        oidc_resource_audience="x",
    )
    assert settings.oidc_providers["corp"].issuer == settings.oidc_resource_issuer == "https://corp.example/"
    assert settings.public_url == "https://app.example.com/kit"
    assert "hush" not in repr(settings)


def test_loopback_in_development() -> None:
    """A provider on this very machine may be reached by plain HTTP while developing."""
    provider = {"issuer": "http://127.0.0.1:8080/realms/dev", "client_id": "x"}
    assert Settings(public_url="http://127.0.0.1:8000", oidc_providers={"corp": provider}).oidc_providers
