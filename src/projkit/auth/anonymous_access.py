"""Access to monitoring and metrics without a login."""

import hmac
from typing import Final

from projkit.http.client import ClientAddresses
from projkit.http.request import Request
from projkit.settings import Settings

_BEARER: Final = b"bearer "


class AnonymousAccess:
    """The rules for requests without a login: local clients in development, METRICS_TOKEN for metrics.

    Neither rule needs a store, so monitoring stays available while Redis or the database is down.
    """

    def __init__(self, settings: Settings, addresses: ClientAddresses) -> None:
        self._addresses = addresses
        self._in_development = settings.env == "development"
        token = settings.metrics_token
        self._metrics_token = None if token is None else token.get_secret_value().encode()

    def allows_monitoring(self, request: Request) -> bool:
        """Return whether the request may use endpoints that require ``monitoring:read``."""
        return self._in_development and self._addresses.is_local(request.scope)

    def allows_metrics(self, request: Request) -> bool:
        """Return whether the request may use endpoints that require ``metrics:read``."""
        return self._has_metrics_token(request) or self.allows_monitoring(request)

    def _has_metrics_token(self, request: Request) -> bool:
        if self._metrics_token is None or b"authorization" in request.repeated:
            return False
        value = request.headers.get(b"authorization", b"")
        if value[: len(_BEARER)].lower() != _BEARER:
            return False
        return hmac.compare_digest(value[len(_BEARER) :].strip(), self._metrics_token)
