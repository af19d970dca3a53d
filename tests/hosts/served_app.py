"""The application as an object, for servers that call no factory."""

from tests.hosts.apps import create_app

app = create_app()
