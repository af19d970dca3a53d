"""Who may look at monitoring and metrics without being signed in."""

import hmac
from typing import Final

from projkit.http.client import ClientAddresses
from projkit.http.request import Request
from projkit.settings import Settings

_BEARER: Final = b"bearer "


class Admission:
    """In development whoever is on this machine; to the metrics, whoever brings METRICS_TOKEN as well.

    Neither asks any store, so that monitoring stays lit while Redis or the database is down.
    """

    def __init__(self, settings: Settings, addresses: ClientAddresses) -> None:
        self._addresses = addresses
        self._in_development = settings.env == "development"
        token = settings.metrics_token
        self._metrics_token = None if token is None else token.get_secret_value().encode()

    def monitoring(self, request: Request) -> bool:
        """Whether the request may see what needs ``monitoring:read``."""
        return self._in_development and self._addresses.is_local(request.scope)

    def metrics(self, request: Request) -> bool:
        """Whether the request may see what needs ``metrics:read``."""
        return self._brings_metrics_token(request) or self.monitoring(request)

    def _brings_metrics_token(self, request: Request) -> bool:
        if self._metrics_token is None or b"authorization" in request.repeated:
            return False
        value = request.headers.get(b"authorization", b"")
        if value[: len(_BEARER)].lower() != _BEARER:
            return False
        return hmac.compare_digest(value[len(_BEARER) :].strip(), self._metrics_token)
