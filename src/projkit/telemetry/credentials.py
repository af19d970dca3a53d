"""Counts credentials, so that a team sees when nobody uses the old ones any more."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter

_TRANSPORTS: Final = ("bearer", "auth_token", "access_token", "unknown")
_FORMATS: Final = ("enhanced", "legacy", "external", "unknown", "none")
_OUTCOMES: Final = ("accepted", "refused", "ignored")


class CredentialCounter:
    """``projkit_auth_credentials_total{transport,format,outcome}``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = Counter(
            "projkit_auth_credentials",
            "Credentials that requests brought, by how they came, their format and what became of them.",
            ("transport", "format", "outcome"),
            registry=registry,
        )
        # Looked up once: labels() costs more than counting.
        self._children = {
            (transport, format_, outcome): counter.labels(transport, format_, outcome)
            for transport in _TRANSPORTS
            for format_ in _FORMATS
            for outcome in _OUTCOMES
        }

    def __call__(self, transport: str, format_: str, outcome: str) -> None:
        """Counts one credential; what is unknown is counted as that."""
        child = self._children.get((transport, format_, outcome))
        if child is None:
            child = self._children[("unknown", "unknown", outcome)]
        child.inc()
