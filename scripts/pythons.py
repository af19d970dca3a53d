"""Print the installed interpreters of some versions of Python, one per line, in the order of the versions.

python scripts/pythons.py 3.13 3.12
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def _candidates(version: str) -> Iterator[str]:
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield on_path
    home = Path.home()
    installations = {
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions": f"{version}.*/bin/python",
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python")): (
            f"cpython-{version}.*/bin/python{version}"
        ),
    }
    for directory, pattern in installations.items():
        yield from sorted(map(str, directory.glob(pattern)), reverse=True)


def _is_version(program: str, version: str) -> bool:
    """Return True if a program runs and is this Python: pyenv's shims exist also for versions that are not active."""
    command = [program, "-Ic", "import sys, venv; print('{}.{}'.format(*sys.version_info))"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False
    return run.stdout.strip() == version


def find_python(version: str) -> str | None:
    """Return the path of an interpreter: on PATH, of pyenv, or of uv; None where there is none.

    Args:
        version: major and minor version, such as ``3.13``.
    """
    return next((program for program in _candidates(version) if _is_version(program, version)), None)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        path = find_python(each)
        if path is not None:
            sys.stdout.write(f"{each} {path}\n")
