"""The vendored corpora of test vectors; README.md lists their origins and licences."""

from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CORPORA: Final = Path(__file__).parent


def corpus_file(name: str) -> Path:
    """Return the path of a file in a corpus.

    Raises:
        FileNotFoundError: The file is missing. The corpora are part of the repository, so nothing is skipped.
    """
    path = CORPORA / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; restore tests/corpora from the repository")
    return path


def json_test_suite(prefix: str) -> list[object]:
    """Return the files of JSONTestSuite whose names begin with ``prefix`` as parameters.

    Args:
        prefix: ``y_`` for valid documents, ``n_`` for invalid ones, ``i_`` for those on which parsers may differ.

    Raises:
        FileNotFoundError: There is no such file.
    """
    files = sorted((CORPORA / "jsontestsuite/test_parsing").glob(f"{prefix}*.json"))
    if not files:
        raise FileNotFoundError("tests/corpora/jsontestsuite is missing; restore it from the repository")
    return [pytest.param(file, id=file.name) for file in files]
