"""What an application that mounts the kit needs in its own tests.

async with open_kit() as kit:
    app = FastAPI(); app.mount("/kit", kit)
    headers = bearer(kit, "alice")
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer
from projkit.identity import DEFAULT_SCOPES
from projkit.kit import ProjKit
from projkit.known_secrets import FOR_TESTS
from projkit.settings import Settings

SECRET: Final = FOR_TESTS


class FakeClock:
    """A clock that stands still until it is told to go on: ``ProjKit(clock=FakeClock())``."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        """Goes on by a ``timedelta`` of these parts: ``clock.advance(minutes=5)``."""
        self.now += timedelta(**duration)


@asynccontextmanager
async def open_kit(*, clock: FakeClock | None = None, **settings: Any) -> AsyncIterator[ProjKit]:
    """A started kit on an SQLite database of its own, which is gone afterwards.

    Args:
        clock: the time that rows are dated by; by default the real one.
        settings: further settings, or other ones.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    with TemporaryDirectory(prefix="projkit-") as directory:
        url = f"sqlite:///{Path(directory) / 'test.db'}"
        given = Settings(**{"database_url": url, "secret": SECRET, **settings})
        kit = ProjKit(given) if clock is None else ProjKit(given, clock=clock)
        async with kit.lifespan():
            yield kit


def bearer(
    kit: ProjKit, subject: str, scopes: Iterable[str] = DEFAULT_SCOPES, **claims: Any
) -> dict[str, str]:
    """The header of a request that ``subject`` makes; ``claims`` as :meth:`TokenIssuer.issue` takes them."""
    token = TokenIssuer(load_keys(kit.settings), kit.settings).issue(subject, tuple(scopes), **claims)
    return {"Authorization": f"Bearer {token}"}
