"""``/monitoring/validate`` over HTTP."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from projkit.clock import rfc3339
from projkit.http.request import Request
from projkit.http.response import PRIVATE, Header, Response, json_response
from projkit.http.routing import AllowsAnonymous, Endpoint, ResponseSpec
from projkit.monitoring.routes import MONITORING_SCOPE
from projkit.validation.results import CheckResult
from projkit.validation.steps import Step
from projkit.validation.wiring import TimedResults, Validations

_TAG: Final = "monitoring"
_RETRY_AFTER: Final[Header] = (b"retry-after", b"10")  # seconds


class ValidatedEndpoint(BaseModel):
    """One call of one endpoint."""

    step: str = Field(description="What was tried.")
    method: str
    route: str
    status_code: int | None = Field(description="`null` if it was not called or sent no response.")
    expected: int = Field(description="The status code of a correct response.")
    latency_ms: float | None
    target_ms: float
    verdict: Literal["ok", "slow", "failed"]
    detail: str | None = None


class EndpointReport(BaseModel):
    """The results of calling the endpoints."""

    status: Literal["ok", "warning", "error"] = Field(
        description="`warning` if a latency target was missed, `error` if a response was wrong."
    )
    started_at: datetime
    duration_ms: float
    endpoints: list[ValidatedEndpoint]
    detail: str | None = None


class AuthenticationCheck(BaseModel):
    """One check of the authentication."""

    name: str
    status: Literal["ok", "failed", "not_configured"]
    latency_ms: float
    detail: str | None = None


class AuthenticationReport(BaseModel):
    """The results of issuing, verifying and revoking credentials."""

    status: Literal["ok", "error"]
    started_at: datetime
    duration_ms: float
    checks: list[AuthenticationCheck]


def endpoints(
    prefix: str, validations: Callable[[], Validations], allows_anonymous: AllowsAnonymous
) -> list[Endpoint]:
    """Declare ``/monitoring/validate/endpoints`` and ``/monitoring/validate/authentication``.

    Concurrent requests share one run, so that none of them has to queue for it.

    Args:
        prefix: the prefix of the API.
        validations: returns the validations of the running event loop.
        allows_anonymous: decides which requests need no credentials.
    """

    async def validate_endpoints(_: Request) -> Response:
        run = await validations().endpoints.join()
        steps = [_step(step, result) for step, result in run.results.steps]
        return _report(run, run.results.status, "endpoints", steps, run.results.detail)

    async def validate_authentication(_: Request) -> Response:
        run = await validations().authentication.join()
        status = "error" if any(each.status == "failed" for each in run.results) else "ok"
        return _report(run, status, "checks", [_check(each) for each in run.results])

    return [
        Endpoint(
            method="GET",
            path=f"{prefix}/monitoring/validate/endpoints",
            handler=validate_endpoints,
            operation_id="validateEndpoints",
            summary="Validate the endpoints",
            description="Calls every endpoint in process, on a project that is permanently removed afterwards.",
            tag=_TAG,
            responses={
                200: ResponseSpec(
                    "Every response is correct; `status` is `warning` if one missed its target.",
                    EndpointReport,
                ),
                503: ResponseSpec("A response is wrong.", EndpointReport, headers=("Retry-After",)),
            },
            scope=MONITORING_SCOPE,
            allows_anonymous=allows_anonymous,
            standalone=True,
            starts_kit=True,
        ),
        Endpoint(
            method="GET",
            path=f"{prefix}/monitoring/validate/authentication",
            handler=validate_authentication,
            operation_id="validateAuthentication",
            summary="Validate authentication",
            description=(
                "Issues, verifies and revokes credentials, with keys and a session that no other caller can use."
            ),
            tag=_TAG,
            responses={
                200: ResponseSpec("Every check passes.", AuthenticationReport),
                503: ResponseSpec("A check fails.", AuthenticationReport, headers=("Retry-After",)),
            },
            scope=MONITORING_SCOPE,
            allows_anonymous=allows_anonymous,
            standalone=True,
            starts_kit=True,
        ),
    ]


def _report(
    run: TimedResults[Any], status: str, name: str, entries: list[dict[str, Any]], detail: str | None = None
) -> Response:
    content = {
        "status": status,
        "started_at": rfc3339(run.started_at),
        "duration_ms": run.duration_ms,
        name: entries,
        **_optional(detail),
    }
    if status == "error":
        return json_response(503, content, (*PRIVATE, _RETRY_AFTER))
    return json_response(200, content, PRIVATE)


def _step(step: Step, result: CheckResult) -> dict[str, Any]:
    return {
        "step": step.name,
        "method": step.method,
        "route": step.route,
        "status_code": result.status_code,
        "expected": step.expected_status,
        "latency_ms": result.latency_ms,
        "target_ms": step.target_ms,
        "verdict": result.status,
        **_optional(result.detail),
    }


def _check(result: CheckResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "status": result.status,
        "latency_ms": result.latency_ms,
        **_optional(result.detail),
    }


def _optional(detail: str | None) -> dict[str, str]:
    return {} if detail is None else {"detail": detail}
