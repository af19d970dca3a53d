"""Compares a new record with an earlier one: exit code 1 if a ratio is worse than noise explains.

    python loadtests/compare.py NEW [BASELINE]      # by default, the record in baselines/

A ratio is the kit's figure divided by a peer's of the same round, so that other load on the machine affects both. The
comparison uses the medians over the rounds, in percent. The noise is four standard errors of their difference, from the
spread of the rounds of both records, and at least 5 %: two consecutive records of one build differ by that much. With
many rounds, the spread is the median distance from the median, which a few disturbed rounds do not change.
A figure that the earlier record has and the new one lacks is a failure. Exit code 2: a file is not a valid record. Exit
code 3: nothing is worse, but some figures have more than a third of noise and cannot be judged; record more rounds.
"""

import math
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, stdev

from support import tables
from support.record import Figure, Record, RecordError, read

REFERENCE = Path(__file__).resolve().parent / "baselines" / "reference.json"
STANDARD_ERRORS, MIN_NOISE, MAX_NOISE = 4.0, 0.05, 1 / 3
MEDIAN_ERROR_FACTOR = 1.2533  # standard error of a median relative to that of a mean
ROBUST_FROM_ROUNDS, MAD_FACTOR = 15, 1.4826  # median absolute deviation times factor = standard deviation
WORSE, MISSING, NOISY = "WORSE", "MISSING", "too noisy to judge"


@dataclass(frozen=True)
class Comparison:
    """The comparison of one figure; ``worse`` and ``noise`` are fractions."""

    old: float
    new: float
    worse: float
    noise: float

    @property
    def word(self) -> str:
        """The verdict."""
        if self.noise > MAX_NOISE and abs(self.worse) <= self.noise:
            return NOISY
        if self.worse > self.noise:
            return WORSE
        return "better" if self.worse < -self.noise else "same"


def judge(new: Figure, old: Figure) -> Comparison:
    """Compare on logarithms, so that twice as fast and half as fast are equally far apart."""
    was, now = median(old.ratios), median(new.ratios)
    change = math.log(now / was) * (-1 if old.better == "more" else 1)
    error = math.hypot(_error(new.ratios), _error(old.ratios))
    return Comparison(was, now, math.expm1(change), max(MIN_NOISE, math.expm1(STANDARD_ERRORS * error)))


def _error(ratios: Sequence[float]) -> float:
    logarithms = [math.log(each) for each in ratios]
    spread = stdev(logarithms)
    if len(ratios) >= ROBUST_FROM_ROUNDS:
        middle = median(logarithms)
        spread = MAD_FACTOR * median(abs(each - middle) for each in logarithms)
    return MEDIAN_ERROR_FACTOR * spread / math.sqrt(len(ratios))


def compare(new: Record, old: Record) -> tuple[str, list[str]]:
    """Return the table and its verdicts."""
    rows, words = [], []
    for name, figure in old.figures.items():
        if name not in new.figures or new.figures[name].better != figure.better:
            rows.append([name, f"{median(figure.ratios):.3f}", "", "", "", MISSING])
        else:
            comparison = judge(new.figures[name], figure)
            rows.append(
                [
                    name,
                    f"{comparison.old:.3f}",
                    f"{comparison.new:.3f}",
                    f"{100 * comparison.worse:+.1f} %",
                    f"{100 * comparison.noise:.1f} %",
                    comparison.word,
                ]
            )
        words.append(rows[-1][-1])
    rows += [
        [name, "", f"{median(figure.ratios):.3f}", "", "", "new"]
        for name, figure in new.figures.items()
        if name not in old.figures
    ]
    head = ["ratio of the kit's figure to the peer's", "old", "new", "worse by", "noise", ""]
    return tables.table("COMPARED", head, rows), words


def differences(new: Record, old: Record) -> list[str]:
    """Return the differences between the machines, one line each."""
    names = dict.fromkeys([*old.machine, *new.machine])
    return [
        f"  {name}: {old.machine.get(name, 'unknown')} then, {new.machine.get(name, 'unknown')} now"
        for name in names
        if old.machine.get(name) != new.machine.get(name)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("new", type=Path)
    parser.add_argument("baseline", type=Path, nargs="?", default=REFERENCE)
    chosen = parser.parse_args(arguments)
    try:
        new, old = read(chosen.new), read(chosen.baseline)
    except RecordError as error:
        print(error, file=sys.stderr)
        return 2
    other = differences(new, old)
    if other:
        print(f"The machine differs from the one of {old.recorded}:", *other, sep="\n")
        print(
            "That alone can change a ratio. To be sure, record the earlier version on this machine as well."
        )
    table, words = compare(new, old)
    print(table)
    if {WORSE, MISSING} & set(words):
        print(f"\nFAILED: some figures are {WORSE} or {MISSING}")
        return 1
    if NOISY in words:
        print(
            f"\nUNDECIDED: {words.count(NOISY)} of {len(words)} figures could not be judged; record with more rounds"
        )
        return 3
    print("\nPASSED: nothing is worse")
    return 0


if __name__ == "__main__":
    sys.exit(main())
