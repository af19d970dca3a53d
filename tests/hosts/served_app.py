"""For servers that load an object instead of calling a factory."""

from tests.hosts.apps import create_app

app = create_app()
