"""Events reach the recorder."""

from projkit.observers import Observer
from projkit.telemetry.recorder import Recorder


def test_the_recorder_overrides_every_event() -> None:
    """No event is discarded: each method of the null object has an implementation that records it."""
    events = {name for name, member in vars(Observer).items() if callable(member) and name[0] != "_"}
    assert len(events) >= 20
    assert events <= vars(Recorder).keys()
