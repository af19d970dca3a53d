"""The corpora of test vectors: beside the project, or wherever ``PROJKIT_TEST_CORPORA`` says."""

import os
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
CORPORA: Final = Path(os.environ.get("PROJKIT_TEST_CORPORA", ROOT.parent / "shared/corpora"))


def absent(name: str) -> pytest.MarkDecorator:
    """The mark of a test that needs a corpus which is not here."""
    return pytest.mark.skip(reason=f"{name} is not at ../shared/corpora from the project's root")


def json_test_suite(prefix: str) -> list[object]:
    """JSONTestSuite's files whose names begin with ``prefix`` as parameters, or one that skips and says why."""
    files = sorted((CORPORA / "jsontestsuite/test_parsing").glob(f"{prefix}*.json"))
    if not files:
        return [pytest.param(CORPORA, id=f"{prefix}absent", marks=absent("JSONTestSuite"))]
    return [pytest.param(file, id=file.name) for file in files]
