"""``projkit serve`` that records nothing: the baseline for the cost of observability.

``python harness/unrecorded.py serve …``; with one worker only, because others would record.
"""

from __future__ import annotations

from projkit.cli import main
from projkit.observers import Observer
from projkit.telemetry.recorder import Recorder

# The events of requests, and of what happens during requests.
EVENTS = (
    Observer.begin_request, Observer.end_request, Observer.record_request, Observer.record_disconnect,
    Observer.record_exception, Observer.record_credential, Observer.record_csrf_check, Observer.record_login,
    Observer.record_refresh, Observer.record_statement, Observer.record_transaction, Observer.record_pool_wait,
    Observer.record_command,
)  # fmt: skip


def discard_events(recorder: Recorder | type[Recorder]) -> None:
    """Let ``recorder``, or all recorders of this process, discard these events as :class:`Observer` does."""
    for event in EVENTS:
        setattr(recorder, event.__name__, event if isinstance(recorder, type) else event.__get__(recorder))


if __name__ == "__main__":
    discard_events(Recorder)
    main()
