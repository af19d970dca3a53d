"""What the load gate makes of several tries, and what the suites make of their counts."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

Support = Callable[[str], ModuleType]
LIST = "GET /projects"


def report(*broken: tuple[str, str, float | None], **medians: float) -> dict[str, Any]:
    """A suite's report: what it missed, and the medians of what it asked."""
    names = {"list": LIST, "post": "POST /projects"}
    return {
        "broken": [
            {
                "stage": "all",
                "endpoint": endpoint,
                "what": what,
                "limit_ms": limit,
                "measured": "",
                "target": "",
            }
            for endpoint, what, limit in broken
        ],
        "endpoints": [
            {"stage": "all", "endpoint": names[name], "intended": {"p50": ms}} for name, ms in medians.items()
        ],
    }


SLOW = report((LIST, "p99", 100.0), list=160.0, post=3.0)
BUSY = report((LIST, "p99", 100.0), list=9.0, post=3.0)
GOOD = report(list=4.0, post=3.0)
ELSEWHERE = report(("POST /projects", "p99", 100.0), list=4.0, post=3.0)
UNASKED = report(post=3.0)
WRONG = report((LIST, "failures", None), list=4.0, post=3.0)


@pytest.mark.parametrize(
    ("tries", "lasts"),
    [
        ([SLOW], {LIST}),
        ([SLOW, SLOW, SLOW], {LIST}),
        ([SLOW, GOOD], set()),
        ([GOOD, SLOW], set()),
        ([SLOW, ELSEWHERE], set()),
        ([SLOW, UNASKED], {LIST}),
        ([WRONG, GOOD], {LIST}),
        ([WRONG, GOOD, GOOD], {LIST}),
    ],
)
def test_a_time_must_be_missed_in_every_try_and_an_answer_only_once(
    support: Support, tries: list[dict[str, Any]], lasts: set[str]
) -> None:
    """Slowness that goes away in another try was the machine's; a wrong answer is held against the build for good."""
    assert {each["endpoint"] for each in support("tries").lasting(tries)} == lasts


@pytest.mark.parametrize(
    ("tries", "what"),
    [
        ([SLOW, SLOW], "p50 for p99"),
        ([BUSY, BUSY], None),
        ([SLOW, BUSY], None),
        ([WRONG], "failures"),
    ],
)
def test_on_a_busy_machine_the_median_decides(
    support: Support, tries: list[dict[str, Any]], what: str | None
) -> None:
    """A server that is slow for most requests fails on a busy machine too; one whose slowest ones are slow does not."""
    module = support("tries")

    left = module.by_median(module.lasting(tries)[0], tries)

    assert (left and left["what"]) == what


def test_what_an_error_adds_is_judged_by_medians_beside_its_twin(support: Support) -> None:
    """The median of the twin is taken off."""
    missed = (LIST, "added to POST /projects", 12.5)
    slow, busy = report(missed, list=40.0, post=3.0), report(missed, list=14.0, post=3.0)

    by_median = support("tries").by_median

    assert by_median(slow["broken"][0], [slow])["measured"] == "37.00 ms"
    assert by_median(busy["broken"][0], [busy]) is None


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_percentile_is_right_to_two_parts_in_a_hundred_also_after_adding_up_processes(
    support: Support, share: float
) -> None:
    """Counts of two processes, sent to a third, give what one would have counted."""
    latencies = support("tally").Latencies
    values = [0.3 * 1.001**number for number in range(5_000)]
    halves = [latencies(), latencies()]
    for number, value in enumerate(values):
        halves[number % 2].add(value)
    total = latencies()
    for half in halves:
        total.merge(latencies.from_wire(half.to_wire()))

    exact = values[int(share * len(values)) - 1]

    assert total.percentile(share) == pytest.approx(exact, rel=0.02)
    assert (total.count, total.max) == (5_000, values[-1])
    assert total.mean == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize(
    ("ms", "slack", "broken"),
    [(39.0, 1.0, []), (41.0, 1.0, ["p99"]), (41.0, 2.5, []), (101.0, 2.5, ["p99"])],
)
def test_a_target_is_missed_at_its_limit_times_the_slack(
    support: Support, ms: float, slack: float, broken: list[str]
) -> None:
    """What is compared is the time from the intended start with the declared target, stretched."""
    row = support("tally").Row("GET", LIST)
    for _ in range(100):
        row.intended.add(ms)
    slo = support("slo")

    found = slo.judge("all", {LIST: row}, {LIST: slo.Target(p99_ms=40.0)}, slack)

    assert [each.what for each in found] == broken
    assert all(each.limit_ms == 40.0 * slack for each in found)


def test_an_endpoint_without_a_target_fails_a_suite(support: Support) -> None:
    """Whoever adds a request to a suite declares what it must do."""
    row = support("tally").Row("GET", "/new")

    (missed,) = support("slo").judge("all", {"GET /new": row}, {}, 1.0)

    assert (missed.endpoint, missed.target) == ("GET /new", "one in slo.toml")
