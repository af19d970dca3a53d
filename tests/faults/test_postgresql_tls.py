"""TLS to PostgreSQL with certificates of the tests: what is accepted, and which parameter an error names."""

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from projkit import ProjKit
from projkit.db import migrate
from projkit.db.errors import DRIVER_ERRORS, describe
from projkit.db.postgresql_connector import PostgresqlConnector
from projkit.errors import DatabaseUnavailableError
from tests.certificates import CERTIFICATE, KEY, write_certificate
from tests.conftest import MODES, Client, settings_for
from tests.faults.conftest import Cluster
from tests.services import missing

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide certificates in the home directory of the user who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))


async def use_certificate(cluster: Cluster, directory: Path, **options: object) -> Path:
    """Let the server use a new certificate; return its path, which is also that of its authority's."""
    write_certificate(directory, **options)  # type: ignore[arg-type]
    data = Path(str(await cluster.execute("SHOW data_directory")))
    for name in (CERTIFICATE, KEY):
        copied = data / name
        shutil.copy(directory / name, copied)
        shutil.chown(copied, data.owner())
        copied.chmod(0o600)
    for setting in (
        "ssl = on",
        f"ssl_cert_file = '{CERTIFICATE}'",
        f"ssl_key_file = '{KEY}'",
        f"ssl_ca_file = '{CERTIFICATE}'",
    ):
        try:
            await cluster.execute(f"ALTER SYSTEM SET {setting}")
        except asyncpg.InvalidParameterValueError as error:
            missing(f"this PostgreSQL has no TLS ({error})")
    await reload(cluster)
    return directory / CERTIFICATE


async def reload(cluster: Cluster) -> None:
    """Let the server read its configuration, and wait until it has."""
    before = await cluster.execute("SELECT pg_conf_load_time()")
    await cluster.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(10):
        while await cluster.execute("SELECT pg_conf_load_time()") == before:
            await asyncio.sleep(0.02)


def url_of(cluster: Cluster, query: str, host: str = "localhost") -> str:
    """Return the URL of the server with parameters."""
    return f"postgresql://postgres@{host}:{cluster.port}/postgres?{query}"


async def error_of(url: str) -> str:
    """Return the error with which a connection fails, as it is shown."""
    with pytest.raises(DRIVER_ERRORS) as caught:
        await PostgresqlConnector(url, connect_seconds=5.0)()
    return describe(caught.value)


@pytest.mark.parametrize("mode", MODES)
async def test_verify_full(cluster: Cluster, tmp_path: Path, mode: str) -> None:
    """All connections of the kit and of its commands verify the certificate and the name in it."""
    certificate = await use_certificate(cluster, tmp_path)
    url = url_of(cluster, f"sslmode=verify-full&sslrootcert={certificate}")
    await migrate.upgrade(url)
    settings = settings_for(url, database_mode=mode)
    kit = ProjKit(settings)
    async with kit.lifespan(), Client(kit, settings) as client:
        await client.project()
        encrypted = await cluster.execute(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
            "WHERE application_name LIKE 'projkit%'"
        )
        assert encrypted is True


@pytest.mark.parametrize("root", ["system", "file"])
async def test_certificates_of_system_and_client(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    """The authorities of the system are used with sslrootcert=system, and a client's certificate is sent."""
    certificate = await use_certificate(cluster, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    authority = "system" if root == "system" else certificate
    query = f"sslmode=verify-full&sslrootcert={authority}&sslcert={certificate}&sslkey={tmp_path / KEY}"
    connection = await PostgresqlConnector(url_of(cluster, query), connect_seconds=5.0)()
    sent = await connection.fetchval("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await connection.close()
    assert sent == "/CN=localhost"
    if root == "system":
        said = await error_of(url_of(cluster, "sslmode=require&sslrootcert=system"))
        assert "sslrootcert=system requires sslmode=verify-full" in said
        connection = await PostgresqlConnector(
            url_of(cluster, "sslrootcert=system&krbsrvname=postgres"), connect_seconds=5.0
        )()
        await connection.close()


async def test_other_name(cluster: Cluster, tmp_path: Path) -> None:
    """A certificate for another name is rejected by verify-full, and accepted by verify-ca."""
    certificate = await use_certificate(cluster, tmp_path, names=("db.example.com",))
    for host in ("localhost", "127.0.0.1"):
        said = await error_of(url_of(cluster, f"sslmode=verify-full&sslrootcert={certificate}", host))
        assert "connect by a name in the server's certificate, or set sslmode=verify-ca" in said
    connection = await PostgresqlConnector(
        url_of(cluster, f"sslmode=verify-ca&sslrootcert={certificate}"), connect_seconds=5.0
    )()
    await connection.close()


async def test_unknown_issuer(cluster: Cluster, tmp_path: Path) -> None:
    """A certificate of an unknown authority, and a missing file of authorities, name sslrootcert."""
    await use_certificate(cluster, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    write_certificate(other)
    said = await error_of(url_of(cluster, f"sslmode=verify-full&sslrootcert={other / CERTIFICATE}"))
    assert "set sslrootcert to the certificate of its authority, or to system if that is a public one" in said
    said = await error_of(url_of(cluster, "sslmode=verify-full"))
    assert "set sslrootcert to the certificate of the server's authority" in said


async def test_expired_certificate(cluster: Cluster, tmp_path: Path) -> None:
    """An expired certificate is rejected, and what to do is said."""
    certificate = await use_certificate(cluster, tmp_path, hours=-1)
    said = await error_of(url_of(cluster, f"sslmode=verify-full&sslrootcert={certificate}"))
    assert "certificate has expired" in said
    assert "renew the server's certificate" in said


async def test_server_without_tls(cluster: Cluster) -> None:
    """A server without TLS is used if the URL does not require it; otherwise the error names both ways."""
    said = await error_of(url_of(cluster, "sslmode=require"))
    assert "enable TLS on the server (ssl = on), or set sslmode=disable if you trust the network" in said
    connection = await PostgresqlConnector(url_of(cluster, "sslmode=prefer"), connect_seconds=5.0)()
    await connection.close()
    kit = ProjKit(settings_for(url_of(cluster, "sslmode=require")))
    with pytest.raises(DatabaseUnavailableError, match="enable TLS on the server"):
        await kit.startup()


async def test_server_that_requires_tls(cluster: Cluster, tmp_path: Path) -> None:
    """A server that accepts only encrypted connections names sslmode."""
    await use_certificate(cluster, tmp_path)
    rules = Path(str(await cluster.execute("SHOW hba_file")))
    rules.write_text("hostssl all all all trust\n")
    await reload(cluster)
    said = await error_of(url_of(cluster, "sslmode=disable"))
    assert "set sslmode=require, or verify-full with sslrootcert" in said
