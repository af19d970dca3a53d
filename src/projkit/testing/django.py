"""An empty database for the kit while Django's tests run: ``TEST_RUNNER = "projkit.testing.django.KitTestRunner"``.

Django replaces its own databases for the tests, but it does not know the kit's: without this runner, tests would write
to the database of ``PROJKIT_DATABASE_URL``. The kit gets no Redis, and an SQLite file that is removed afterwards. Each
process of ``--parallel`` has its own.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from django.test.runner import DiscoverRunner, ParallelTestSuite

from projkit.db.tables import build_tables
from projkit.errors import ConfigurationError
from projkit.hosts.django.guards import find_kit
from projkit.kit import ProjKit
from projkit.testing.internals import Internals

# The variable that tells worker processes where their databases are.
_DIRECTORY: Final = "DJANGO_TESTS_OF_PROJKIT"


@contextmanager
def kit_database() -> Iterator[None]:
    """Give the kit of ``settings.PROJKIT_KIT`` an empty database, until the end of the block.

    Raises:
        ConfigurationError: The kit uses an engine or a Redis client of the application.
    """
    with TemporaryDirectory(prefix="projkit-", ignore_cleanup_errors=True) as directory:
        _use_file_in(directory)
        yield


class KitTestRunner(DiscoverRunner):  # type: ignore[misc]  # Django has no types
    """Django's test runner, with an empty database for the kit."""

    @property
    def parallel_test_suite(self) -> type[ParallelTestSuite]:
        """The suite for ``--parallel``."""
        return _KitTestSuite

    def setup_databases(self, **options: Any) -> Any:
        """Create the databases of Django, and the kit's."""
        self._directory = TemporaryDirectory(prefix="projkit-", ignore_cleanup_errors=True)
        os.environ[_DIRECTORY] = self._directory.name
        _use_file_in(self._directory.name)
        return super().setup_databases(**options)

    def teardown_databases(self, old_config: Any, **options: Any) -> None:
        """Remove the databases."""
        super().teardown_databases(old_config, **options)
        self._directory.cleanup()


class _KitTestSuite(ParallelTestSuite):  # type: ignore[misc]  # Django has no types
    def init_worker(counter: Any, *arguments: Any, **named: Any) -> None:  # noqa: N805  # Django takes the function only
        """Give a worker process databases of its own."""
        ParallelTestSuite.init_worker(counter, *arguments, **named)
        _use_file_in(os.environ[_DIRECTORY])


class EmptyKit:
    """Mix-in for test cases: ``class ProjectTests(EmptyKit, TestCase)``. Each test begins without any row of the kit.

    Django's ``TestCase`` rolls back its own database only, and gives the primary keys of its users to others.
    """

    def setUp(self) -> None:
        """Delete the kit's rows."""
        super().setUp()  # type: ignore[misc]  # of the test case
        settings = _kit().settings
        if settings.sqlite_path.is_file():  # the kit creates it when it starts
            tables = build_tables(settings.table_prefix).metadata.sorted_tables
            with closing(sqlite3.connect(settings.sqlite_path)) as connection, connection:
                for table in reversed(tables):
                    connection.execute(f'DELETE FROM "{table.name}"')  # noqa: S608  # a name of the kit's own


def _use_file_in(directory: str) -> None:
    Internals(_kit()).use_file(Path(directory) / f"{os.getpid()}.db")


def _kit() -> ProjKit:
    kit = find_kit()
    if not isinstance(kit, ProjKit):
        raise ConfigurationError(f"PROJKIT_KIT must be a ProjKit, not {type(kit).__name__}")
    return kit
