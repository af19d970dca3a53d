"""A new record against an earlier one: exit code 1 where a ratio is worse than the noise explains.

    python loadtests/compare.py NEW [BASELINE]      # by default, the record in baselines/

A ratio is the kit's figure by a peer's of the same round, so that what else the machine did falls on both. Compared are
the medians over the rounds, in percent. The noise is four standard errors of their difference, taken from the spread of
the rounds of both records, and at least 5 %: two records of one build, made one after the other, differ by that much.
Of many rounds the spread is their median distance from the median, which a few disturbed ones do not change.
A figure that the earlier record has and the new one lacks fails as well. Exit code 2: a file that is no record. Exit
code 3: nothing is worse, but there are figures whose noise is above a third and that cannot be judged; record with more
rounds.
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
ERRORS, LEAST, MOST = 4.0, 0.05, 1 / 3
MEDIAN = 1.2533  # the standard error of a median is so much larger than that of a mean
MANY, DEVIATION = 15, 1.4826  # a median distance times this is the standard deviation of what is normal
WORSE, MISSING, NOISY = "WORSE", "MISSING", "too noisy to judge"


@dataclass(frozen=True)
class Judged:
    """One figure: how much worse, in shares; and what noise it has."""

    was: float
    now: float
    worse: float
    noise: float

    @property
    def word(self) -> str:
        """The verdict."""
        if self.noise > MOST and abs(self.worse) <= self.noise:
            return NOISY
        if self.worse > self.noise:
            return WORSE
        return "better" if self.worse < -self.noise else "same"


def judge(new: Figure, old: Figure) -> Judged:
    """By logarithms, in which twice as fast and half as fast are equally far."""
    was, now = median(old.ratios), median(new.ratios)
    change = math.log(now / was) * (-1 if old.better == "more" else 1)
    error = math.hypot(_error(new.ratios), _error(old.ratios))
    return Judged(was, now, math.expm1(change), max(LEAST, math.expm1(ERRORS * error)))


def _error(ratios: Sequence[float]) -> float:
    logarithms = [math.log(each) for each in ratios]
    spread = stdev(logarithms)
    if len(ratios) >= MANY:
        middle = median(logarithms)
        spread = DEVIATION * median(abs(each - middle) for each in logarithms)
    return MEDIAN * spread / math.sqrt(len(ratios))


def compare(new: Record, old: Record) -> tuple[str, list[str]]:
    """The table, and the verdicts in it."""
    rows, words = [], []
    for name, figure in old.figures.items():
        if name not in new.figures or new.figures[name].better != figure.better:
            rows.append([name, f"{median(figure.ratios):.3f}", "", "", "", MISSING])
        else:
            judged = judge(new.figures[name], figure)
            rows.append([name, f"{judged.was:.3f}", f"{judged.now:.3f}", f"{100 * judged.worse:+.1f} %",
                         f"{100 * judged.noise:.1f} %", judged.word])  # fmt: skip
        words.append(rows[-1][-1])
    rows += [[name, "", f"{median(figure.ratios):.3f}", "", "", "new"]
             for name, figure in new.figures.items() if name not in old.figures]  # fmt: skip
    head = ["ratio of the kit's figure to the peer's", "was", "is", "worse by", "noise", ""]
    return tables.table("COMPARED", head, rows), words


def differences(new: Record, old: Record) -> list[str]:
    """What the machines do not have in common, one line each."""
    names = dict.fromkeys([*old.machine, *new.machine])
    return [
        f"  {name}: {old.machine.get(name, 'unknown')} then, {new.machine.get(name, 'unknown')} now"
        for name in names
        if old.machine.get(name) != new.machine.get(name)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
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
        print(f"Not the same machine as on {old.recorded}:", *other, sep="\n")
        print(
            "A ratio may differ for that alone. To know, record the earlier version on this machine as well."
        )
    table, words = compare(new, old)
    print(table)
    if {WORSE, MISSING} & set(words):
        print(f"\nFAILED: there are figures that are {WORSE} or {MISSING}")
        return 1
    if NOISY in words:
        print(
            f"\nUNDECIDED: {words.count(NOISY)} of {len(words)} figures could not be judged; record with more rounds"
        )
        return 3
    print("\nNothing is worse")
    return 0


if __name__ == "__main__":
    sys.exit(main())
