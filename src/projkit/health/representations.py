"""The two representations of the detailed health: ``application/json`` and ``application/health+json``."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from projkit.clock import rfc3339, utc_now
from projkit.health.check_scheduler import CheckState
from projkit.health.checks import Status
from projkit.health.state_history import StateChange

_PASS: Final = {"ok": "pass", "degraded": "warn", "error": "fail"}
_COMPONENT_TYPES: Final = {
    "database": "datastore",
    "redis": "datastore",
    "celery": "component",
    "migrations": "datastore",
    "disk": "system",
    "event_loop": "system",
    "clock": "system",
}
# Components that are reported as not configured when a kit does not use them.
_OPTIONAL: Final = ("redis", "celery")
_NOT_CONFIGURED: Final = {
    "status": "not_configured",
    "critical": False,
    "latency_ms": None,
    "observed_at": None,
    "age_seconds": None,
    "failing_since": None,
    "changes": [],
}
# The public version of the API (draft-inadarei-api-health-check-06 §3.2).
_API_VERSION: Final = "1"


def detailed_health(
    status: Status,
    state: str,
    checks: Sequence[CheckState],
    *,
    version: str,
    uptime_seconds: float,
    system: Mapping[str, Any],
    traffic: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the body of ``/health/detailed`` as ``application/json``."""
    rendered = {check.name: _check(check) for check in checks}
    if state != "starting":
        rendered.update({name: dict(_NOT_CONFIGURED) for name in _OPTIONAL if name not in rendered})
    body: dict[str, Any] = {
        "status": status,
        "state": state,
        "version": version,
        "uptime_seconds": round(uptime_seconds, 3),
        "checks": rendered,
        "system": system,
    }
    if traffic is not None:
        body["traffic"] = traffic
    return body


def system_of(checks: Sequence[CheckState], sampled: Mapping[str, Any], lag_seconds: float) -> dict[str, Any]:
    """Return the measurements of the machine and the process, including those of the check ``disk``."""
    disk = next((check.latest.data for check in checks if check.name == "disk" and check.latest), None)
    return {**sampled, "disk": disk or {}, "event_loop_lag_ms": round(lag_seconds * 1000, 1)}


def health_json(
    status: Status,
    checks: Sequence[CheckState],
    *,
    version: str,
    uptime_seconds: float,
    system: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the body of ``/health/detailed`` as ``application/health+json``."""
    rendered = {f"{check.name}:responseTime": [_measurement(check)] for check in checks}
    now = rfc3339(utc_now())
    for key, value, unit in (
        ("cpu:utilization", system.get("cpu_percent"), "percent"),
        ("memory:utilization", system.get("memory", {}).get("used_percent"), "percent"),
        ("disk:utilization", system.get("disk", {}).get("used_percent"), "percent"),
        ("uptime", round(uptime_seconds, 3), "s"),
    ):
        if value is not None:
            measured = {"componentType": "system", "observedValue": value, "observedUnit": unit}
            rendered[key] = [{**measured, "status": "pass", "time": now}]
    return {**health_json_status(status), "version": _API_VERSION, "releaseId": version, "checks": rendered}


def health_json_status(status: Status) -> dict[str, Any]:
    """Return the body with the status alone."""
    return {"status": _PASS[status]}


def _check(check: CheckState) -> dict[str, Any]:
    latest = check.latest
    rendered: dict[str, Any] = {
        "status": check.status,
        "critical": check.critical,
        "latency_ms": None if latest is None else round(latest.latency_ms, 3),
        "observed_at": None if latest is None else rfc3339(latest.observed_at),
        "age_seconds": None if check.age_seconds is None else round(check.age_seconds, 3),
        "failing_since": None if check.failing_since is None else rfc3339(check.failing_since),
        "changes": [_change(each) for each in reversed(check.changes)],
    }
    if detail := _detail(check):
        rendered["detail"] = detail
    if latest is not None and latest.data is not None:
        rendered["data"] = latest.data
    return rendered


def _change(change: StateChange) -> dict[str, Any]:
    rendered = {"at": rfc3339(change.at), "status": change.status}
    return {**rendered, "detail": change.detail} if change.detail else rendered


def _measurement(check: CheckState) -> dict[str, Any]:
    status: Status = "ok" if check.status == "ok" else ("error" if check.critical else "degraded")
    measurement: dict[str, Any] = {
        "componentType": _COMPONENT_TYPES.get(check.name, "component"),
        **health_json_status(status),
    }
    if check.latest is not None:
        measurement["observedValue"] = round(check.latest.latency_ms, 3)
        measurement["observedUnit"] = "ms"
        measurement["time"] = rfc3339(check.latest.observed_at)
    if status != "ok" and (detail := _detail(check)):  # §4.8: omitted when the check passes
        measurement["output"] = detail
    return measurement


def _detail(check: CheckState) -> str:
    if check.status == "unknown":
        if check.age_seconds is None:
            return "not checked yet"
        return f"not seen: this process, {os.getpid()}, has not completed the check for {check.age_seconds:.0f} s"
    return "" if check.latest is None else check.latest.detail
