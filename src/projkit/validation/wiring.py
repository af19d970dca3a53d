"""Puts a kit's validations together: what they call, what they look at, and what removes their rows."""

from functools import partial

from projkit.auth.wiring import AuthParts
from projkit.clock import Clock
from projkit.db.port import Database
from projkit.db.tables import Tables
from projkit.http.application import Application
from projkit.http.in_process import named_caller
from projkit.settings import Settings
from projkit.validation.authentication import validate_authentication
from projkit.validation.cleanup import ProbeRows
from projkit.validation.endpoints import EndpointValidation
from projkit.validation.routes import Validations


class Validating:
    """Makes the validations of one kit, for each event loop its own."""

    def __init__(
        self,
        app: Application,
        settings: Settings,
        tables: Tables,
        clock: Clock,
        *,
        host_decides: bool,
        host_checks_csrf: bool,
    ) -> None:
        """The host may decide who is calling, and check CSRF tokens, in place of the kit."""
        self._app = app.for_callers(named_caller)
        self._settings = settings
        self._tables = tables
        self._clock = clock
        self._by_host = {"host_decides": host_decides, "host_checks_csrf": host_checks_csrf}

    def __call__(self, database: Database | None = None, auth: AuthParts | None = None) -> Validations:
        """With what the kit has opened; without, they say what does not answer, and what does all the same."""
        clear = None if database is None else ProbeRows(database, self._tables, clock=self._clock).clear
        return Validations(
            EndpointValidation(self._app, self._settings, clear),
            partial(validate_authentication, self._settings, auth, **self._by_host),
        )
