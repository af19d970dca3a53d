"""Counts checks against cross-site requests, so that a team sees when every front end sends the token."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter

_MODES: Final = ("signed", "origin", "own")
_OUTCOMES: Final = ("accepted", "accepted_without_token", "refused")


class CsrfCounter:
    """``projkit_auth_csrf_checks_total{mode,outcome}``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = Counter(
            "projkit_auth_csrf_checks",
            "Unsafe requests with cookies, by what their CSRF token is checked by and what became of them.",
            ("mode", "outcome"),
            registry=registry,
        )
        # Looked up once: labels() costs more than counting.
        self._children = {
            (mode, outcome): counter.labels(mode, outcome) for mode in _MODES for outcome in _OUTCOMES
        }

    def __call__(self, mode: str, outcome: str) -> None:
        """Counts one check."""
        self._children[(mode, outcome)].inc()
