"""The verdicts of the load gate over several attempts, and of the suites on their statistics."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Support = Callable[[str], ModuleType]
LIST = "GET /projects"


def report(*missed: tuple[str, str, float | None], **medians: float) -> dict[str, Any]:
    """Build a suite's report from missed targets and the medians of its endpoints."""
    names = {"list": LIST, "post": "POST /projects"}
    return {
        "missed": [
            {
                "stage": "all",
                "endpoint": endpoint,
                "what": what,
                "limit_ms": limit,
                "measured": "",
                "target": "",
            }
            for endpoint, what, limit in missed
        ],
        "endpoints": [
            # Added latencies are measured from sending.
            {"stage": "all", "endpoint": names[name], "intended": {"p50": ms}, "service": {"p50": ms - 1}}
            for name, ms in medians.items()
        ],
    }


SLOW = report((LIST, "p99", 100.0), list=160.0, post=3.0)
BUSY = report((LIST, "p99", 100.0), list=9.0, post=3.0)
GOOD = report(list=4.0, post=3.0)
ELSEWHERE = report(("POST /projects", "p99", 100.0), list=4.0, post=3.0)
NOT_REQUESTED = report(post=3.0)
WRONG = report((LIST, "failures", None), list=4.0, post=3.0)


@pytest.mark.parametrize(
    ("attempts", "persistent"),
    [
        ([SLOW], {LIST}),
        ([SLOW, SLOW, SLOW], {LIST}),
        ([SLOW, GOOD], set()),
        ([GOOD, SLOW], set()),
        ([SLOW, ELSEWHERE], set()),
        ([SLOW, NOT_REQUESTED], {LIST}),
        ([WRONG, GOOD], {LIST}),
        ([WRONG, GOOD, GOOD], {LIST}),
    ],
)
def test_a_latency_must_be_missed_in_every_attempt_and_a_response_only_once(
    support: Support, attempts: list[dict[str, Any]], persistent: set[str]
) -> None:
    """A latency target that another attempt meets does not fail the gate; a wrong response always does."""
    assert {each["endpoint"] for each in support("retries").persistent(attempts)} == persistent


@pytest.mark.parametrize(
    ("attempts", "what"),
    [
        ([SLOW, SLOW], "p50 for p99"),
        ([BUSY, BUSY], None),
        ([SLOW, BUSY], None),
        ([WRONG], "failures"),
    ],
)
def test_on_a_busy_machine_the_median_decides(
    support: Support, attempts: list[dict[str, Any]], what: str | None
) -> None:
    """On a busy machine, a server that is slow for most requests fails; one with a slow tail does not."""
    module = support("retries")

    left = module.by_median(module.persistent(attempts)[0], attempts)

    assert (left and left["what"]) == what


def test_what_an_error_adds_is_judged_by_medians_beside_its_twin(support: Support) -> None:
    """The median of the twin is subtracted."""
    missed = (LIST, "added to POST /projects", 12.5)
    slow, busy = report(missed, list=40.0, post=3.0), report(missed, list=14.0, post=3.0)

    by_median = support("retries").by_median

    assert by_median(slow["missed"][0], [slow])["measured"] == "37.00 ms"
    assert by_median(busy["missed"][0], [busy]) is None


@pytest.mark.parametrize(("ms", "missed"), [(39.9, []), (40.0, [LIST]), (61.0, [LIST])])
def test_a_median_above_the_target_itself_is_missed_whatever_the_slack(
    support: Support, ms: float, missed: list[str]
) -> None:
    """A build that is slow for most requests fails the gate even if its tail stays within the slack."""
    missed_medians = support("retries").slow_medians(report(list=ms, post=3.0), {LIST: 40.0})

    assert [each["endpoint"] for each in missed_medians] == missed
    assert {each["limit_ms"] for each in missed_medians} <= {40.0}


@pytest.mark.parametrize(
    ("seen", "sent", "seconds", "missed"),
    [
        ({LIST, "POST /projects"}, 95, 20.0, []),
        ({LIST}, 95, 20.0, ["POST /projects"]),
        ({LIST, "POST /projects"}, 55, 20.0, ["(all)"]),
        ({LIST, "POST /projects"}, 55, 5.0, []),
    ],
)
def test_an_endpoint_that_was_not_measured_does_not_pass(
    support: Support, seen: set[str], sent: int, seconds: float, missed: list[str]
) -> None:
    """A suite fails if an endpoint of its schedule was never requested or too few of the due requests were sent."""
    expected = {LIST: 60.0, "POST /projects": 30.0, "GET /rare": 2.0}

    failures = support("slo").unmeasured(seen, sent, expected, 100.0, seconds)

    assert [each.endpoint for each in failures] == missed


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_percentile_is_right_to_two_parts_in_a_hundred_also_after_adding_up_processes(
    support: Support, share: float
) -> None:
    """Merged statistics of two processes equal those of a single one."""
    histogram = support("stats").Histogram
    values = [0.3 * 1.001**number for number in range(5_000)]
    halves = [histogram(), histogram()]
    for number, value in enumerate(values):
        halves[number % 2].add(value)
    total = histogram()
    for half in halves:
        total.merge(histogram.from_wire(half.to_wire()))

    exact = values[int(share * len(values)) - 1]

    assert total.percentile(share) == pytest.approx(exact, rel=0.02)
    assert (total.count, total.max) == (5_000, values[-1])
    assert total.mean == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize(
    ("ms", "slack", "missed"),
    [(39.0, 1.0, []), (41.0, 1.0, ["p99"]), (41.0, 2.5, []), (101.0, 2.5, ["p99"])],
)
def test_a_target_is_missed_at_its_limit_times_the_slack(
    support: Support, ms: float, slack: float, missed: list[str]
) -> None:
    """Latency from the intended start is compared with the declared target times the slack."""
    row = support("stats").EndpointStats("GET", LIST)
    for _ in range(100):
        row.intended.add(ms)
    slo = support("slo")

    failures = slo.judge("all", {LIST: row}, {LIST: slo.Target(p99_ms=40.0)}, slack)

    assert [each.what for each in failures] == missed
    assert all(each.limit_ms == 40.0 * slack for each in failures)


@pytest.mark.parametrize(
    ("of", "above", "missed"),
    [(11, 1, False), (11, 2, True), (60, 2, False), (60, 3, True), (300, 6, False), (300, 7, True),
     (20_000, 220, False), (20_000, 224, True)],
)  # fmt: skip
def test_a_percentile_is_missed_by_more_than_chance(
    support: Support, of: int, above: int, missed: bool
) -> None:
    """One slow response in sixty does not miss a p99; more than chance explains do."""
    row = support("stats").EndpointStats("GET", LIST)
    for number in range(of):
        row.intended.add(90.0 if number < above else 3.0)
    slo = support("slo")

    failures = slo.judge("all", {LIST: row}, {LIST: slo.Target(p99_ms=40.0)}, 1.0)

    assert [each.what for each in failures] == ["p99"] * missed


@pytest.mark.parametrize("of", [1, 10, 100, 1_000])
def test_targets_that_are_met_are_missed_in_less_than_one_run_in_twenty(support: Support, of: int) -> None:
    """The limit is the smallest number that chance exceeds in fewer than 5 % of runs."""
    number = support("slo").too_many(of, 0.01)

    def at_least(least: int) -> float:
        return sum(
            math.comb(of, k) * 0.01**k * 0.99 ** (of - k) for k in range(least, min(of, least + 60) + 1)
        )

    assert at_least(number) < 0.05 <= at_least(number - 1)


def test_an_endpoint_without_a_target_fails_a_suite(support: Support) -> None:
    """A request that is added to a suite must have a target."""
    row = support("stats").EndpointStats("GET", "/new")

    (missed,) = support("slo").judge("all", {"GET /new": row}, {}, 1.0)

    assert (missed.endpoint, missed.target) == ("GET /new", "one in slo.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('p99_ms = "40"', "must be a number above 0"),
        ("p99_ms = 0", "must be a number above 0"),
        ("p99_ms = -5", "must be a number above 0"),
        ("mean_ms = nan", "must be a number above 0"),
        ("mean_ms = true", "must be a number above 0"),
        ("mean_ms = 5\nfailures_percent = -1", "must be a number of 0 or more"),
        ("twin = 5\nadded_mean_ms = 5", "must be an endpoint's name"),
        ("twin = 'GET /x'", "needs added_mean_ms and twin together"),
        ("failures_percent = 1", "has no target"),
        ("", "has no target"),
        ("p99 = 40", "may only contain"),
    ],
)
def test_an_invalid_target_is_rejected(support: Support, tmp_path: Path, text: str, words: str) -> None:
    """A mistyped target is an error before anything is sent, since no endpoint would be compared with it."""
    path = tmp_path / "slo.toml"
    path.write_text(f'["GET /x"]\n{text}\n')

    with pytest.raises(SystemExit, match=words):
        support("slo").load(str(path))


def test_counts_start_again_after_a_restart_of_the_server(support: Support) -> None:
    """Counts from before a restart of the server are not subtracted."""
    scrape = support("server").Scrape
    row = support("stats").EndpointStats("GET", "/x")
    before, after = (
        scrape(Counter({("GET", "/x"): number}), {("GET", "/x"): 0.5 * number}) for number in (200, 8)
    )

    (compared,) = support("server").compare([row], before, after)

    assert (compared.server_count, compared.server_ms) == (8, 500.0)
