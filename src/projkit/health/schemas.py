"""Schemas of the health endpoints."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

HEALTH_JSON: Final = "application/health+json"

_Status = Literal["ok", "degraded", "error"]
_Connection = Literal["ok", "error", "not_configured"]


class Probe(BaseModel):
    """The overall status. `degraded`: a non-critical check fails."""

    status: _Status


class HealthSummary(BaseModel):
    """The overall status, and the status of the two connections."""

    status: _Status
    redis_connection: _Connection
    database_connection: _Connection


class CheckChange(BaseModel):
    """A result of a check that differs from the one before it; the first result is one, too."""

    at: str
    status: Literal["ok", "error"]
    detail: str | None = None


class CheckReport(BaseModel):
    """The state of a check. `unknown`: it has not run yet, or its latest result is older than three periods."""

    status: Literal["ok", "error", "unknown", "not_configured"]
    critical: bool
    latency_ms: float | None
    observed_at: str | None
    age_seconds: float | None
    failing_since: str | None = Field(
        description="The first failure since the check last succeeded in this worker."
    )
    changes: list[CheckChange] = Field(
        description="The last ten changes of the state in this worker since it started, the latest first."
    )
    detail: str | None = Field(
        default=None, description="The reason for a failure, or the text that the check returned."
    )
    data: dict[str, Any] | None = Field(default=None, description="The measurements of the check.")


class DetailedHealth(BaseModel):
    """The detailed health; callers without permission get `status` alone."""

    status: _Status
    state: Literal["starting", "ready", "draining"] | None = None
    version: str | None = None
    uptime_seconds: float | None = None
    checks: dict[str, CheckReport] | None = None
    system: dict[str, Any] | None = Field(
        default=None,
        description="Measurements of the container or machine, and of this process. `source` in `cpu` and `memory` is "
        "`cgroup` if the container has a limit, which the percentages refer to, otherwise `machine`.",
    )
    traffic: dict[str, Any] | None = Field(
        default=None, description="Requests, errors and latencies of the last five minutes."
    )


class Measurement(BaseModel):
    """One measurement of a component (draft-inadarei-api-health-check-06 §4)."""

    model_config = ConfigDict(extra="forbid")

    component_type: str = Field(alias="componentType")
    observed_value: float | None = Field(default=None, alias="observedValue")
    observed_unit: str | None = Field(default=None, alias="observedUnit")
    status: Literal["pass", "warn", "fail"]
    time: str | None = None
    output: str | None = None


class HealthJson(BaseModel):
    """Health in the format of draft-inadarei-api-health-check-06."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["pass", "warn", "fail"]
    version: str | None = None
    release_id: str | None = Field(default=None, alias="releaseId")
    checks: dict[str, list[Measurement]] | None = None
