"""The package ``projkit``, which imports the kit when it is first used."""

import subprocess
import sys

import pytest

import projkit
from projkit.kit import ProjKit

USES = {
    "name": "import projkit; kit = projkit.ProjKit",
    "from": "from projkit import ProjKit as kit",
    "star": "from projkit import *; kit = ProjKit",
    "pickle": "import pickle, projkit; kit = pickle.loads(pickle.dumps(projkit.ProjKit))",
}


@pytest.mark.parametrize("use", USES)
def test_the_kit_is_imported_when_it_is_used(use: str) -> None:
    """Importing the package or the filters for alembic imports no kit, but lists it; each form of use finds it."""
    code = (
        "import sys, projkit, projkit.alembic\n"
        "assert 'projkit.kit' not in sys.modules\n"
        "assert set(projkit.__all__) <= set(dir(projkit))\n"
        f"{USES[use]}\n"
        "assert kit is sys.modules['projkit.kit'].ProjKit\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit is the one of its module, and any other name is an AttributeError that names it."""
    monkeypatch.delattr(projkit, "ProjKit", raising=False)
    assert projkit.ProjKit is ProjKit
    with pytest.raises(AttributeError, match="module 'projkit' has no attribute 'Projkit'"):
        _ = projkit.Projkit  # type: ignore[attr-defined]
