"""A host's own migrations on the kit's database: real projects of alembic, and a Django project."""

import asyncio
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from projkit import ProjKit, Settings
from projkit.db import revisions
from projkit.db.tables import build_tables
from tests.conftest import SECRET, settings_for, token_for
from tests.services import open_sqlite

TABLES = sorted(build_tables("projkit_").metadata.tables)
KIT = [*TABLES, "projkit_alembic_version"]

SQLMODEL = """
from sqlmodel import Field, SQLModel

class Customer(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(index=True, unique=True)

class Projkitty(SQLModel, table=True):  # begins like the kit's tables
    id: int | None = Field(default=None, primary_key=True)
    customer_id: int = Field(foreign_key="customer.id")
    # more

metadata = SQLModel.metadata
"""
SQLALCHEMY = """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True, unique=True)

class Projkitty(Base):
    __tablename__ = "projkitty"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(sa.ForeignKey("customer.id"))
    # more

metadata = Base.metadata
"""


@dataclass(frozen=True)
class Host:
    """A project with models and alembic, next to a kit."""

    directory: Path
    url: str  # of the database, without a driver
    schema: str = ""
    sqlmodel: bool = False
    driver: str = "psycopg"
    include_schemas: bool = False

    @property
    def settings(self) -> Settings:
        """The settings of the kit."""
        return settings_for(self.url, database_schema=self.schema)

    @property
    def _template(self) -> str:
        return "async" if self.driver == "asyncpg" else "generic"

    def run(self, code: str, *arguments: str) -> str:
        """Run Python code in the project, with the kit's settings in its environment; return the output."""
        variables = {
            "PROJKIT_SECRET": SECRET,
            "PROJKIT_DATABASE_URL": self.url,
            "PROJKIT_DATABASE_SCHEMA": self.schema,
        }
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.directory, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, **variables},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def alembic(self, *commands: str) -> str:
        """Run commands of alembic, in one process because its start takes longest; return their output."""
        return self.run(ALEMBIC, *commands)

    def projkit(self, command: str) -> str:
        """Run a command of the kit; return its output."""
        return self.run(
            f"from projkit.cli import main; import sys; sys.argv = ['projkit', '{command}']; main()"
        )

    def create(self) -> None:
        """Create the project as alembic does, with models; the filters are not in it yet."""
        (self.directory / "models.py").write_text(SQLMODEL if self.sqlmodel else SQLALCHEMY)
        self.alembic(f"init --template {self._template} migrations")
        url = self.url.replace("postgresql:", f"postgresql+{self.driver}:")
        self._edit("alembic.ini", "driver://user:pass@localhost/dbname", url)
        self._edit(
            "migrations/env.py", "target_metadata = None", "from models import metadata as target_metadata"
        )
        if self.include_schemas:
            self._edit("migrations/env.py", "=target_metadata", "=target_metadata, include_schemas=True")
        if self.sqlmodel:
            self._edit(
                "migrations/script.py.mako", "import sqlalchemy as sa", "import sqlalchemy as sa, sqlmodel"
            )

    def add_filters(self) -> None:
        """Pass the filters to alembic, as docs/migrations.md says."""
        self._edit("migrations/env.py", "\nconfig = context.config", f"\n{IMPORT}\nconfig = context.config")
        self._edit("migrations/env.py", "=target_metadata", f"=target_metadata, {ARGUMENTS}")

    def add_column(self) -> None:
        """Add a column to a model."""
        column = "note: str | None = None" if self.sqlmodel else "note: Mapped[str | None]"
        self._edit("models.py", "# more", column)

    def autogenerate(self, message: str, *then: str) -> tuple[str, str]:
        """Generate a migration and run further commands; return the migration, and the output."""
        before = set((self.directory / "migrations/versions").glob("*.py"))
        output = self.alembic(f"revision --autogenerate --message {message}", *then)
        (created,) = set((self.directory / "migrations/versions").glob("*.py")) - before
        return created.read_text(), output

    def _edit(self, name: str, old: str, new: str) -> None:
        path = self.directory / name
        text = path.read_text()
        assert old in text, text
        path.write_text(text.replace(old, new))


ALEMBIC = """
import sys
from alembic.config import main
for command in sys.argv[1:]:
    main(command.split(), prog="alembic")
"""
UP_TO_DATE = "No new upgrade operations detected"
DOCUMENT = (Path(__file__).parents[2] / "docs/migrations.md").read_text()
(IMPORT,) = re.findall(r"^from projkit\.alembic import include.*$", DOCUMENT, flags=re.MULTILINE)
ARGUMENTS = ", ".join(re.findall(r"^    (include_\w+=include_\w+),$", DOCUMENT, flags=re.MULTILINE))


async def use_kit(settings: Settings) -> list[str]:
    """Start a kit, create a project, and return the names of all."""
    kit = ProjKit(settings)
    headers = {"Authorization": f"Bearer {token_for(settings, 'alice')}"}
    transport = httpx2.ASGITransport(app=kit)
    async with (
        kit.lifespan(),
        httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client,
    ):
        assert (await client.post("/api/v1/projects", json={"name": "Roof"})).status_code == 201
        assert (await client.get("/api/v1/health/ready")).status_code == 200
        return [each["name"] for each in (await client.get("/api/v1/projects")).json()["items"]]


async def shape(host: Host) -> list[str]:
    """Return the definitions of the kit's tables and indexes, and the revision."""
    if host.url.startswith("sqlite"):
        with open_sqlite(host.url) as file:
            rows = file.execute(
                "SELECT sql FROM sqlite_master WHERE tbl_name IN (SELECT value FROM json_each(?)) "
                "UNION ALL SELECT version_num FROM projkit_alembic_version",
                [str(KIT).replace("'", '"')],
            )
            return sorted(str(row[0]) for row in rows)
    connection = await asyncpg.connect(host.url)
    try:
        await connection.execute(f"SET search_path TO {host.schema or 'public'}")
        rows = await connection.fetch(
            "SELECT concat_ws(' ', tablename, indexname, indexdef) FROM pg_indexes WHERE tablename = ANY($1) "
            "UNION ALL SELECT concat_ws(' ', table_name, column_name, data_type) FROM information_schema.columns "
            "WHERE table_name = ANY($1) UNION ALL SELECT version_num FROM projkit_alembic_version "
            "UNION ALL SELECT revision FROM projkit_alembic_version",
            KIT,
        )
        return sorted(row[0] for row in rows)
    finally:
        await connection.close()


HOSTS: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {"sqlmodel": True},
    "postgresql, own schema": {"schema": "kit", "driver": "asyncpg"},
    "postgresql, own schema, all schemas": {"schema": "kit", "include_schemas": True, "sqlmodel": True},
}


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """Create the project of a host on each kind of database."""
    name = str(request.param)
    url = request.getfixturevalue("empty_sqlite_url" if name == "sqlite" else "empty_postgres_url")
    host = Host(tmp_path / "host", url, **HOSTS[name])
    host.directory.mkdir()
    host.create()
    return host


def test_a_hosts_alembic(host: Host) -> None:
    """A host generates, runs, checks and undoes its migrations beside a kit, whose tables stay as they are."""
    host.projkit("migrate")
    assert asyncio.run(use_kit(host.settings)) == ["Roof"]
    before = asyncio.run(shape(host))
    assert revisions.head() in before
    if not host.schema or host.include_schemas:
        unfiltered, _ = host.autogenerate("unfiltered")
        upgrade = unfiltered.partition("def upgrade")[2].partition("def downgrade")[0]
        assert sorted(re.findall(r"op\.drop_table\('(\w+)'", upgrade)) == sorted(KIT), "this test can fail"
        for path in (host.directory / "migrations/versions").glob("*.py"):
            path.unlink()
        host.add_filters()
    generated, output = host.autogenerate("first", "upgrade head", "check")
    assert "create_table('customer'" in generated
    assert "projkit_" not in generated
    assert UP_TO_DATE in output
    host.add_column()
    generated, output = host.autogenerate("second", "upgrade head", "check", "downgrade base")
    assert "add_column('projkitty'" in generated
    assert "projkit_" not in generated
    assert UP_TO_DATE in output
    host.projkit("migrate")
    assert asyncio.run(shape(host)) == before
    assert asyncio.run(use_kit(host.settings)) == ["Roof"] * 2


@pytest.mark.parametrize("host", ["sqlite", "postgresql", "postgresql, own schema"], indirect=True)
def test_the_kits_migrations_keep_the_hosts_tables(host: Host) -> None:
    """The kit's migrations, in a database where the host's came first, change nothing of the host's."""
    host.add_filters()
    generated, _ = host.autogenerate("first", "upgrade head")
    assert "create_table('projkitty'" in generated
    host.projkit("migrate")
    assert UP_TO_DATE in host.alembic("check")
    assert ("projkit.alembic.include_name" in host.projkit("check")) == (not host.schema)
    assert asyncio.run(use_kit(host.settings)) == ["Roof"]


DJANGO = """
import sys, django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    DATABASES={"default": dict(zip(("ENGINE", "HOST", "PORT", "USER", "PASSWORD", "NAME"), sys.argv[1:7]))},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    USE_TZ=True,
)
django.setup()
call_command("migrate", verbosity=0)
call_command("makemigrations", check_changes=True)
call_command("flush", interactive=False, verbosity=0)
call_command("inspectdb")
"""


@pytest.mark.parametrize("schema", ["", "kit"])
def test_a_django_project(empty_postgres_url: str, tmp_path: Path, schema: str) -> None:
    """Django's migrate, makemigrations and flush keep the kit's tables and rows; inspectdb sees those on the path."""
    host = Host(tmp_path, empty_postgres_url, schema)
    host.projkit("migrate")
    assert asyncio.run(use_kit(host.settings)) == ["Roof"]
    before = asyncio.run(shape(host))
    parts = urlsplit(host.url)
    address = (parts.hostname, parts.port, parts.username, parts.password, parts.path[1:])
    models = host.run(DJANGO, "django.db.backends.postgresql", *(str(each or "") for each in address))
    assert "class AuthUser(" in models
    assert ("class ProjkitProjects(" in models) == (not schema)
    assert asyncio.run(shape(host)) == before
    assert asyncio.run(use_kit(host.settings)) == ["Roof"] * 2
