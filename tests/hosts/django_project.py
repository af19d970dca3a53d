"""New Django projects, set up as docs/django.md says: its code blocks are their files."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import SECRET
from tests.hosts.conftest import ROOT, Served, free_port, running

_BLOCK = re.compile(r"```python\n# (?P<path>\S+\.py)(?P<end>, at the end)?\n(?P<code>.*?)```", re.DOTALL)


class Project:
    """A Django project in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.variables: dict[str, str] = {
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "PROJKIT_SECRET": SECRET,
            "PYTHONWARNINGS": "default",
        }

    def using(self, **variables: str) -> "Project":
        """Return the same project with other environment variables."""
        other = Project(self.directory)
        other.variables = {**self.variables, **variables}
        return other

    def write(self, path: str, code: str) -> None:
        """Add code to the end of a file."""
        with (self.directory / path).open("a", encoding="utf-8") as file:
            file.write(code)

    def manage(self, *arguments: str, status: int = 0) -> str:
        """Run manage.py and return what it prints."""
        return self.run(sys.executable, "manage.py", *arguments, status=status)

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run a command in the directory and return what it prints."""
        done = subprocess.run(
            arguments,
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(self.directory), **self.variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == status, printed
        return printed

    def add_user(self, name: str, password: str) -> str:
        """Create a superuser and return its primary key."""
        code = (
            "from django.contrib.auth.models import User; "
            f"print('pk', User.objects.create_superuser({name!r}, password={password!r}).pk)"
        )
        return self.manage("shell", "-c", code).split("pk ")[-1].strip()

    @contextmanager
    def serve(self, server: str, probe: str = "/", **variables: str) -> Iterator[Served]:
        """Serve the project on a server."""
        port = free_port()
        address = f"127.0.0.1:{port}"
        python = [sys.executable, "-m"]
        arguments: Mapping[str, list[str]] = {
            "runserver": [sys.executable, "manage.py", "runserver", "--noreload", address],
            "runserver with autoreload": [sys.executable, "manage.py", "runserver", address],
            "gunicorn": [
                *python, "gunicorn", "mysite.wsgi:application", "--preload", "-w", "2", "-b", address,
            ],
            "daphne": [*python, "daphne", "-b", "127.0.0.1", "-p", str(port), "mysite.asgi:application"],
            "uvicorn": [*python, "uvicorn", "mysite.asgi:application", "--port", str(port)],
        }  # fmt: skip
        environment = {**self.variables, "PYTHONPATH": str(self.directory), **variables}
        with running(arguments[server], port, self.directory, probe, environment) as served:
            yield served


def create_project(directory: Path) -> Project:
    """Create a project with django-admin, and set it up as the page says."""
    directory.mkdir()
    command = [sys.executable, "-m", "django", "startproject", "mysite", str(directory)]
    subprocess.run(command, check=True, timeout=120)
    page = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")
    for block in _BLOCK.finditer(page):
        file = directory / block["path"]
        before = file.read_text(encoding="utf-8") if block["end"] else ""
        file.write_text(before + "\n" + block["code"], encoding="utf-8")
    return Project(directory)
