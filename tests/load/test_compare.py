"""``python loadtests/compare.py NEW [BASELINE]``, on generated records and on the reference record."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.load.conftest import SUITES

MACHINE = {"processor": "Made up, 3 GHz", "cores": 2, "python": "CPython 3.11.7"}
STEADY = [6.0, 6.1, 5.9, 6.05, 5.95]
NO_FIGURES = json.dumps({"format": 1, "recorded": "", "machine": {}, "method": {}, "figures": {}})
ONE_RATIO = json.dumps(
    {
        "format": 1,
        "recorded": "",
        "machine": {},
        "method": {},
        "figures": {"x": {"better": "more", "ratios": [1], "kit": 1, "peer": 1, "unit": ""}},
    }
)
RATE, TIME = "GET 16 connections, req/s, against fastapi_orm", "GET on a schedule, p50, against floor"


def record(path: Path, figures: dict[str, tuple[str, list[float]]], **machine: object) -> Path:
    """Write a record and return its path."""
    exported = {
        name: {"better": better, "ratios": ratios, "kit": 1.0, "peer": 1.0, "unit": "req/s"}
        for name, (better, ratios) in figures.items()
    }
    document = {
        "format": 1,
        "recorded": "2026-11-27",
        "machine": {**MACHINE, **machine},
        "method": {},
        "figures": exported,
    }
    path.write_text(json.dumps(document))
    return path


def compare(*paths: Path) -> tuple[int, str, str]:
    """Run the command; return exit code, standard output and standard error."""
    line = [sys.executable, str(SUITES / "compare.py"), *map(str, paths)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def times(factor: float, values: list[float]) -> list[float]:
    """Multiply each value."""
    return [factor * value for value in values]


def test_the_record_of_this_repository_equals_itself() -> None:
    """The reference record has figures for every request, and none is too noisy to judge."""
    kept = SUITES / "baselines" / "reference.json"
    figures = json.loads(kept.read_text())["figures"]

    ended, printed, _ = compare(kept)

    assert ended == 0
    assert {"GET", "LIST", "POST"} <= {name.split()[0] for name in figures}
    assert {"floor", "fastapi_orm", "fastapi_stock"} <= {name.split()[-1] for name in figures}
    words = {name: line.removeprefix(name).split()[-1] for line in printed.splitlines() for name in figures
             if line.startswith(name)}  # fmt: skip
    assert words == dict.fromkeys(figures, "same")


@pytest.mark.parametrize(
    ("better", "factor", "code", "word"),
    [
        ("more", 1.0, 0, "same"),
        ("more", 0.97, 0, "same"),
        ("more", 1.5, 0, "better"),
        ("more", 0.8, 1, "WORSE"),
        ("less", 0.8, 0, "better"),
        ("less", 1.04, 0, "same"),
        ("less", 1.25, 1, "WORSE"),
    ],
)
def test_a_ratio_that_is_worse_than_noise_fails_whichever_way_is_better(
    tmp_path: Path, better: str, factor: float, code: int, word: str
) -> None:
    """A slower build exits with 1 and its figure is named; an equal or faster one exits with 0."""
    old = record(tmp_path / "old.json", {RATE: (better, STEADY)})
    new = record(tmp_path / "new.json", {RATE: (better, times(factor, STEADY))})

    ended, printed, _ = compare(new, old)

    row = next(line for line in printed.splitlines() if line.startswith(RATE))
    assert (ended, row.split()[-1]) == (code, word)
    assert ("FAILED" in printed) is bool(code)
    assert "The machine differs" not in printed


@pytest.mark.parametrize("noisy", ["old", "new"])
def test_noise_in_either_record_widens_the_tolerance(tmp_path: Path, noisy: str) -> None:
    """A difference of 10 % fails between steady records and passes if the rounds of either record vary widely."""
    wide = [5.4, 6.6, 6.0, 5.6, 6.5]
    steady_old = record(tmp_path / "steady_old.json", {RATE: ("more", STEADY)})
    steady_new = record(tmp_path / "steady_new.json", {RATE: ("more", times(0.9, STEADY))})
    old = record(tmp_path / "old.json", {RATE: ("more", wide if noisy == "old" else STEADY)})
    new = record(tmp_path / "new.json", {RATE: ("more", times(0.9, wide if noisy == "new" else STEADY))})

    assert compare(steady_new, steady_old)[0] == 1
    assert compare(new, old)[0] == 0


def test_a_few_disturbed_rounds_do_not_hide_a_regression(tmp_path: Path) -> None:
    """A regression of 10 % is detected in thirty rounds even if three of them ran at half the speed."""
    rounds = [*(STEADY * 6)[:27], 3.0, 3.1, 2.9]
    old = record(tmp_path / "old.json", {RATE: ("more", rounds)})
    new = record(tmp_path / "new.json", {RATE: ("more", times(0.9, rounds))})

    ended, printed, _ = compare(new, old)

    assert (ended, "WORSE" in printed) == (1, True)


def test_noisy_rounds_are_reported_as_undecided(tmp_path: Path) -> None:
    """A figure whose rounds differ by half is not reported as unchanged."""
    wild = [3.0, 6.0, 9.0, 4.0, 8.0]
    old = record(tmp_path / "old.json", {RATE: ("more", wild)})

    ended, printed, _ = compare(record(tmp_path / "new.json", {RATE: ("more", times(0.9, wild))}), old)

    assert ended == 3
    assert "too noisy to judge" in printed
    assert "UNDECIDED: 1 of 1" in printed
    assert "Nothing is worse" not in printed


def test_a_figure_with_the_opposite_meaning_is_not_compared(tmp_path: Path) -> None:
    """A figure whose direction changed from more to less counts as missing."""
    old = record(tmp_path / "old.json", {RATE: ("more", STEADY)})

    ended, printed, _ = compare(record(tmp_path / "new.json", {RATE: ("less", STEADY)}), old)

    assert (ended, "MISSING" in printed) == (1, True)


def test_a_collapse_fails_however_noisy_the_rounds_were(tmp_path: Path) -> None:
    """A drop to a fifth of the speed fails despite any noise."""
    wild = [3.0, 6.0, 9.0, 4.0, 8.0]
    old = record(tmp_path / "old.json", {RATE: ("more", wild)})

    ended, printed, _ = compare(record(tmp_path / "new.json", {RATE: ("more", times(0.2, wild))}), old)

    assert ended == 1
    assert "WORSE" in printed


def test_a_figure_that_was_not_measured_again_fails(tmp_path: Path) -> None:
    """A missing figure fails; a new one is only shown."""
    old = record(tmp_path / "old.json", {RATE: ("more", STEADY), TIME: ("less", STEADY)})
    new = record(tmp_path / "new.json", {RATE: ("more", STEADY), "GET 99": ("more", STEADY)})

    ended, printed, _ = compare(new, old)

    last = {line.split("  ")[0]: line.split()[-1] for line in printed.splitlines() if line}
    assert ended == 1
    assert (last[RATE], last[TIME], last["GET 99"]) == ("same", "MISSING", "new")


def test_another_machine_is_named_with_what_differs_and_still_judged(tmp_path: Path) -> None:
    """Words before the table say what the machines do not share, and that a ratio can change a ratio."""
    old = record(tmp_path / "old.json", {RATE: ("more", STEADY)})
    new = record(tmp_path / "new.json", {RATE: ("more", times(0.5, STEADY))}, processor="Another", cores=64)

    ended, printed, _ = compare(new, old)

    words, _, table = printed.partition("COMPARED")
    assert "processor: Made up, 3 GHz then, Another now" in words
    assert "cores: 2 then, 64 now" in words
    assert "python" not in words
    assert "can change a ratio" in words
    assert "WORSE" in table
    assert ended == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "is not a valid record"),
        ("[]", "is not a valid record"),
        ('{"format": 99, "figures": {}}', "format 99"),
        ('{"format": 1, "figures": {}}', "is not a valid record"),
        (NO_FIGURES, "no figures"),
        (ONE_RATIO.replace("[1]", "[1, NaN]"), "needs two or more ratios"),
        (ONE_RATIO.replace("[1]", "[1, Infinity]"), "needs two or more ratios"),
        (ONE_RATIO.replace("[1]", '["1", "2"]'), "needs two or more ratios"),
        (ONE_RATIO, "needs two or more ratios"),
    ],
)
def test_an_invalid_record_is_rejected_in_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    """The exit code is 2 and the error is one line, whatever the file contains."""
    old, new = record(tmp_path / "old.json", {RATE: ("more", STEADY)}), tmp_path / "new.json"
    if content is not None:
        new.write_text(content)

    ended, _, error = compare(new, old)

    assert ended == 2
    assert words in error
    assert error.count("\n") == 1
