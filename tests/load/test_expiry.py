"""A token that expires before a load test ends is reported at its start."""

import base64
import json
import time
from collections.abc import Callable
from types import ModuleType

import pytest

from projkit import Settings
from tests.conftest import SECRET, token_for

Support = Callable[[str], ModuleType]


def unsigned(payload: object) -> str:
    """Return a JWT with this payload, as issuers other than the kit may write it."""
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"e30.{encoded}.x"


@pytest.mark.parametrize(
    ("lifetimes", "planned", "said"),
    [
        ((3600,), 60, ""),
        ((100,), 60, "expires in 100 s, and the run takes 60 s"),
        ((100,), 60, "--ttl 3m"),
        ((3600, 100), 600, "number 2 of 2, expires in 100 s"),
        ((-5,), 60, "expired 5 s ago"),
    ],
)
def test_expiring(
    support: Support,
    monkeypatch: pytest.MonkeyPatch,
    lifetimes: tuple[int, ...],
    planned: float,
    said: str,
) -> None:
    """The message names the token, its expiry, and how to get a longer one."""
    now = int(time.time())
    monkeypatch.setattr(time, "time", lambda: now)
    message = support("expiry").expiring([unsigned({"exp": now + each}) for each in lifetimes], planned)
    assert bool(message) == bool(said)
    assert said in message
    assert "PROJKIT_LOAD_USER" in message or not said


def test_the_kits_own_tokens(support: Support) -> None:
    """A token of the kit is read, and one without an expiry is never reported."""
    token = token_for(Settings(secret=SECRET), "load", seconds=120)
    expiring = support("expiry").expiring
    assert expiring([token], 30) == ""
    assert "the run takes 600 s" in expiring([token], 600)
    for other in ("opaque", "a.b.c", unsigned({}), unsigned([]), unsigned({"exp": "soon"})):
        assert expiring([other], 600) == ""
