"""Access to the parts of a kit, for projkit's own tests. It is not a stable interface: parts are renamed and moved."""

from pathlib import Path

from projkit.errors import ConfigurationError
from projkit.health.service import Health
from projkit.http.application import Application
from projkit.kit import ProjKit
from projkit.monitoring.service import Monitoring
from projkit.running import Running
from projkit.telemetry.recorder import Recorder


class Internals:
    """The parts of a kit, as :class:`ProjKit` wires them."""

    def __init__(self, kit: ProjKit) -> None:
        self._kit = kit

    @property
    def running(self) -> Running:
        """The resources and services of the running event loop.

        Raises:
            UnavailableError: The kit is not running.
        """
        return self._kit._lifecycle.get()

    @property
    def recorder(self) -> Recorder:
        """The kit's metrics."""
        return self._kit._recorder

    @property
    def application(self) -> Application:
        """The router of the kit's endpoints."""
        return self._kit._application

    @property
    def health(self) -> Health:
        """The kit's health checks."""
        return self._kit._health

    @property
    def monitoring(self) -> Monitoring:
        """The kit's reports."""
        return self._kit._monitoring

    def use_file(self, file: Path) -> None:
        """Replace the database by an SQLite file, and Redis by the database; for a kit that has not been started.

        The settings are immutable for everyone else: all parts of the kit share this one object.

        Raises:
            ConfigurationError: The kit uses an engine or a Redis client of the application.
        """
        given = self._kit._startup.host.names & {"engine", "redis"}
        if given:
            raise ConfigurationError(
                f"The kit uses the application's {' and '.join(sorted(given))}; pass ones for the tests instead"
            )
        vars(self._kit.settings).update(
            database_url=f"sqlite+aiosqlite:///{file}",
            database_mode="fast",
            database_schema="",  # SQLite has none
            row_level_security=False,
            redis_url=None,
            session_store=None,
        )
