"""nginx in front of a host: with TLS, with a prefix that it strips or keeps, and with gzip where a test asks for it."""

import os
import pwd
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from projkit.testing.servers import free_port, unprivileged_user
from tests.certificates import CERTIFICATE, KEY, write_certificate
from tests.services import missing

_START_SECONDS = 30
_PROGRAMS = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"

# The part of the configuration around the server blocks: every path is in the directory, and nothing runs as root.
_MAIN = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 256; }}
http {{
    access_log access.log;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    types {{ text/html html; }}
    {http}
}}
"""

_SERVER = """
map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
upstream kit {{ server {upstream}; keepalive 8; }}
server {{
    listen 127.0.0.1:{port} {flags};
    server_name localhost;
    {tls}
    {gzip}
    location "{prefix}/" {{
        proxy_pass http://kit{rest};
        proxy_http_version 1.1;
        proxy_set_header Host $host:$server_port;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        {more}
    }}
}}
"""
_GZIP = "gzip on; gzip_min_length 0; gzip_types application/json application/problem+json;"


class Nginx:
    """A running nginx.

    Attributes:
        url: the URL of its server, without a prefix.
        certificate: the file with its certificate, which is its own issuer.
    """

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.certificate = directory / CERTIFICATE
        self._directory = directory

    @property
    def access_log(self) -> str:
        """The requests that it served."""
        return (self._directory / "access.log").read_text()

    @property
    def error_log(self) -> str:
        """Its messages."""
        return (self._directory / "error.log").read_text()

    def client(self, prefix: str = "", **options: Any) -> httpx2.Client:
        """Create a client that trusts the certificate."""
        context = ssl.create_default_context(cafile=self.certificate)
        return httpx2.Client(base_url=self.url + prefix, verify=context, timeout=20, **options)


@contextmanager
def proxied(
    upstream: str,
    *,
    prefix: str = "",
    strip: bool = False,
    gzip: bool = False,
    tls: bool = True,
    http2: bool = False,
    more: str = "",
    port: int = 0,
) -> Iterator[Nginx]:
    """Run nginx in front of the server at the URL ``upstream``.

    Args:
        upstream: the URL of the server behind it, without a path.
        prefix: the path below which the server is found, such as ``/kit``.
        strip: remove the prefix from forwarded requests.
        gzip: compress responses of every size.
        tls: serve https, with a certificate of its own.
        http2: serve HTTP/2, which requires ``tls``.
        more: more directives of the location.
        port: the port on which it listens; 0 for any that is free.
    """
    port = port or free_port()
    server = _SERVER.format(
        upstream=upstream.partition("://")[2],
        port=port,
        flags=f"{'ssl' if tls else ''} {'http2' if http2 else ''}",
        tls=f"ssl_certificate {CERTIFICATE}; ssl_certificate_key {KEY};" if tls else "",
        gzip=_GZIP if gzip else "",
        prefix=prefix,
        rest="/" if strip else "",
        more=more,
    )
    with running(server, f"{'https' if tls else 'http'}://localhost:{port}") as nginx:
        yield nginx


@contextmanager
def running(configuration: str, url: str) -> Iterator[Nginx]:
    """Run nginx with a configuration, the inside of ``http { … }``, until the end; it responds at ``url``.

    Certificate and key are in the files ``CERTIFICATE`` and ``KEY``, for ``localhost`` and 127.0.0.1.
    """
    program = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), _PROGRAMS)))
    if program is None:
        missing("nginx is not installed; see scripts/debian-packages")
    directory = Path(tempfile.mkdtemp(prefix="projkit-nginx-"))
    try:
        (directory / "nginx.conf").write_text(_MAIN.format(http=configuration))
        write_certificate(directory)
        as_user: dict[str, Any] = {}
        if (user := unprivileged_user()) is not None:
            as_user = _give_to(directory, user)
        command: list[str | Path] = [
            program,
            "-p",
            directory,
            "-c",
            directory / "nginx.conf",
            "-e",
            directory / "error.log",
        ]
        with (directory / "output.log").open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, **as_user
            )
        try:
            _wait(process, url, directory)
            yield Nginx(url, directory)
        finally:
            process.terminate()  # at once; nginx ends its worker itself
            process.wait(10)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _give_to(directory: Path, user: pwd.struct_passwd) -> dict[str, Any]:
    for path in (directory, *directory.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait(process: "subprocess.Popen[bytes]", url: str, directory: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        output = (directory / "output.log").read_text()
        assert process.poll() is None, output
        assert time.monotonic() < deadline, output
        try:
            httpx2.get(url, verify=False, timeout=5)
        except httpx2.TransportError:
            time.sleep(0.02)
        else:
            return
