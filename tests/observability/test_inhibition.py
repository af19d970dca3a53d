"""One cause pages once: the shipped Alertmanager inhibits the alerts on its effects, and no others."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import httpx2
import pytest

from tests.observability.monitoring_stack import PROMETHEUS, Receiver, alertmanager, receiver, wait_until
from tests.observability.test_queries import rules, yaml

Labels = dict[str, str]
HERE: Final = {"job": "projkit", "instance": "a"}
OF_THE_JOB: Final = {"job": "projkit"}
ELSEWHERE: Final = {"job": "projkit", "instance": "b"}
OTHER_JOB: Final = {"job": "projkit-2", "instance": "a"}
DATABASE: Final = {"check": "database"}
BURNS: Final = [
    f"Projkit{kind}BudgetBurns{speed}" for kind in ("Availability", "Latency") for speed in ("Fast", "Slowly")
]


class Alerting(NamedTuple):
    """A running Alertmanager and the receiver of its notifications."""

    address: str
    receiver: Receiver

    def fire(self, alerts: list[Labels]) -> None:
        """Send firing alerts, as Prometheus does."""
        ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        body = [{"labels": each, "annotations": {}, "endsAt": ends} for each in alerts]
        httpx2.post(f"http://{self.address}/api/v2/alerts", json=body).raise_for_status()

    def inhibited(self, case: str) -> list[Labels]:
        """Return the labels of the inhibited alerts of a case."""
        alerts = httpx2.get(
            f"http://{self.address}/api/v2/alerts", params={"filter": f'case="{case}"'}
        ).json()
        return [each["labels"] for each in alerts if each["status"]["inhibitedBy"]]


@pytest.fixture(scope="module")
def alerting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    """Run Alertmanager with the shipped configuration."""
    with (
        receiver() as (alerts, webhook),
        alertmanager(tmp_path_factory.mktemp("alertmanager"), webhook) as address,
    ):
        yield Alerting(address, alerts)


def alert(name: str, where: Labels, **labels: str) -> Labels:
    """Return the labels of an alert with the severity of its rule."""
    severity = next(rule["labels"]["severity"] for rule in rules("alerts.yml") if rule["alert"] == name)
    return {"alertname": name, "severity": severity, **where, **labels}


CAUSES: Final[dict[str, tuple[Labels, list[Labels], list[Labels]]]] = {
    "a server is down": (
        alert("ProjkitTargetDown", HERE),
        [
            alert("ProjkitAbsent", {}),
            alert("ProjkitCriticalCheckFailing", HERE, **DATABASE),
            alert("ProjkitCheckFailing", HERE, check="celery"),
            alert("ProjkitCheckNotRunning", HERE, check="celery"),
            alert("ProjkitWorkerStuck", HERE, pid="7"),
            alert("ProjkitWorkersDying", HERE, reason="killed"),
            alert("ProjkitMetricsStoreDegraded", HERE),
            alert("ProjkitPoolExhausted", HERE),
            alert("ProjkitEventLoopLagging", HERE),
            *(alert(name, OF_THE_JOB) for name in BURNS),
        ],
        [
            alert("ProjkitCriticalCheckFailing", ELSEWHERE, **DATABASE),
            alert("ProjkitWorkerStuck", ELSEWHERE, pid="7"),
            alert("ProjkitMetricsStoreDegraded", ELSEWHERE),
            alert("ProjkitLoginsUnderAttack", OF_THE_JOB),
            alert("ProjkitAvailabilityBudgetBurnsFast", {"job": "projkit-2"}),
        ],
    ),
    "the database fails": (
        alert("ProjkitCriticalCheckFailing", HERE, **DATABASE),
        [
            *(alert(name, OF_THE_JOB, window="1h") for name in BURNS),
            alert("ProjkitCheckFailing", HERE, check="migrations"),
            alert("ProjkitPoolExhausted", HERE),
        ],
        [
            alert("ProjkitCheckFailing", HERE, check="celery"),
            alert("ProjkitCheckFailing", ELSEWHERE, check="migrations"),
            alert("ProjkitUnexpectedExceptions", OF_THE_JOB, route="/kit/api/v1/projects"),
            alert("ProjkitCriticalCheckFailing", OTHER_JOB, **DATABASE),
            alert("ProjkitWorkerStuck", HERE, pid="7"),
        ],
    ),
    "a worker is stuck": (
        alert("ProjkitWorkerStuck", HERE, pid="7"),
        [
            alert("ProjkitEventLoopLagging", HERE),
            alert("ProjkitCheckNotRunning", HERE, check="database"),
            alert("ProjkitCheckFailing", HERE, check="event_loop"),
            alert("ProjkitCriticalCheckFailing", HERE, check="event_loop"),
            *(alert(name, OF_THE_JOB, window="1h") for name in BURNS),
        ],
        [
            alert("ProjkitWorkerStuck", HERE, pid="8"),
            alert("ProjkitCheckFailing", HERE, check="celery"),
            alert("ProjkitCheckNotRunning", ELSEWHERE, check="database"),
            alert("ProjkitWorkersDying", HERE, reason="killed"),
            alert("ProjkitMetricsStoreDegraded", HERE),
            alert("ProjkitLatencyBudgetBurnsFast", {"job": "projkit-2"}),
        ],
    ),
    "metrics are not shared": (
        alert("ProjkitMetricsStoreDegraded", HERE),
        [],
        [
            alert("ProjkitCheckNotRunning", HERE, check="database"),
            alert("ProjkitWorkersDying", HERE, reason="killed"),
        ],
    ),
    "requests fail": (
        alert("ProjkitAvailabilityBudgetBurnsFast", OF_THE_JOB, window="1h"),
        [alert(name, OF_THE_JOB, window="6h") for name in BURNS[1:]],
        [
            alert("ProjkitAvailabilityBudgetBurnsFast", OF_THE_JOB, window="6h"),
            alert("ProjkitLatencyBudgetBurnsFast", {"job": "projkit-2"}, window="6h"),
            alert("ProjkitPoolExhausted", HERE),
        ],
    ),
    "requests are slow": (
        alert("ProjkitLatencyBudgetBurnsFast", OF_THE_JOB),
        [alert("ProjkitLatencyBudgetBurnsSlowly", OF_THE_JOB)],
        [alert("ProjkitAvailabilityBudgetBurnsSlowly", OF_THE_JOB), alert("ProjkitEventLoopLagging", HERE)],
    ),
    "a worker lags": (
        alert("ProjkitEventLoopLagging", HERE),
        [alert("ProjkitCheckFailing", HERE, check="event_loop")],
        [
            alert("ProjkitCheckFailing", HERE, check="celery"),
            alert("ProjkitLatencyBudgetBurnsFast", OF_THE_JOB),
        ],
    ),
}

# The alerts that are neither the cause nor the effect of another, and why.
INDEPENDENT: Final = {
    "ProjkitUnexpectedExceptions": "a defect of the code, at any time",
    "ProjkitMemoryGrows": "a warning, hours before anything else fires",
    "ProjkitFileDescriptorsRunOut": "a warning, before connections are refused",
    "ProjkitCleanupBehind": "a day behind, which affects no request",
    "ProjkitSpansLost": "the collector fails, which affects no request",
    "ProjkitLoginsUnderAttack": "an act of clients",
    "ProjkitRefreshTokenReused": "an act of clients",
    "ProjkitLegacySunsetNears": "a date",
    "ProjkitLegacyTokensAfterSunset": "a date",
}


def test_every_alert_is_decided() -> None:
    """Each alert is the source or target of a rule with a case here, or independent of the others with a reason."""
    alerts = {rule["alert"] for rule in rules("alerts.yml")}
    patterns = {
        match.group(1)
        for rule in yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text())["inhibit_rules"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
        if (match := re.fullmatch(r'alertname=~?"(.+)"', matcher))
    }
    in_rules = {name for name in alerts if any(re.fullmatch(each, name) for each in patterns)}
    assert in_rules == alerts - set(INDEPENDENT)
    assert set(INDEPENDENT) <= alerts
    in_cases = {each["alertname"] for cause, effects, _ in CAUSES.values() for each in (cause, *effects)}
    assert in_cases == in_rules


@pytest.mark.parametrize("case", CAUSES)
def test_one_cause_notifies_once(alerting: Alerting, case: str) -> None:
    """The alert on a cause and those on anything else notify; those on its effects do not."""
    key = case.replace(" ", "-")

    def of_this_case(labels: Labels) -> Labels:
        # Each case has jobs and servers of its own, since all alerts stay.
        own = {name: f"{key}-{value}" for name, value in labels.items() if name in {"job", "instance"}}
        return {**labels, **own, "case": key}

    cause, effects, others = CAUSES[case]
    alerting.fire([of_this_case(each) for each in (cause, *effects, *others)])
    expected = sorted(str(sorted(of_this_case(each).items())) for each in (cause, *others))

    def notified() -> list[str]:
        labels = [each["labels"] for _, each in alerting.receiver.alerts]
        return sorted({str(sorted(each.items())) for each in labels if each["case"] == key})

    wait_until(lambda: len(notified()) >= len(expected), lambda: str(alerting.receiver.alerts))
    assert notified() == expected
    inhibited = [str(sorted(each.items())) for each in alerting.inhibited(key)]
    assert sorted(inhibited) == sorted(str(sorted(of_this_case(each).items())) for each in effects)


def test_a_resolved_cause(alerting: Alerting) -> None:
    """If the cause is resolved and its effect is not, the effect notifies."""
    where = {"job": "resolved", "case": "resolved"}
    cause = alert("ProjkitTargetDown", where, instance="a")
    effect = alert("ProjkitAvailabilityBudgetBurnsFast", where)
    alerting.fire([cause, effect])
    pages: Any = lambda: [each["labels"] for path, each in alerting.receiver.alerts if path == "/page"]  # noqa: E731
    wait_until(lambda: cause in pages(), lambda: str(alerting.receiver.alerts))
    assert effect not in pages()
    body = [{"labels": cause, "endsAt": datetime.now(UTC).isoformat()}]
    httpx2.post(f"http://{alerting.address}/api/v2/alerts", json=body).raise_for_status()
    assert alerting.inhibited("resolved") == []


def test_pages_are_inhibited_by_pages_only() -> None:
    """A ticket never keeps a page from the person on call."""
    for cause, effects, _ in CAUSES.values():
        for effect in effects:
            assert cause["severity"] == "page" or effect["severity"] == "ticket"
