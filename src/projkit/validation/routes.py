"""``/monitoring/validate`` over HTTP."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from time import perf_counter
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field

from projkit.clock import utc_now
from projkit.http.request import Request
from projkit.http.response import PRIVATE, Header, Response, json_response
from projkit.http.routing import Admits, Answer, Endpoint
from projkit.validation.endpoints import EndpointResults, EndpointValidation, SharedRun, StepResult

T = TypeVar("T")
_SCOPE: Final = "monitoring:read"
_TAG: Final = "monitoring"
_TRY_AGAIN: Final[Header] = (b"retry-after", b"10")


class CheckedCredential(Protocol):
    """What became of one check of the authentication."""

    @property
    def name(self) -> str:
        """What was checked."""

    @property
    def status(self) -> Literal["ok", "failed", "not_configured"]:
        """How it ended."""

    @property
    def latency_ms(self) -> float:
        """How long it took."""

    @property
    def detail(self) -> str | None:
        """What there is to say; never a secret."""


# Runs every check, in bounded time.
CheckAuthentication = Callable[[], Awaitable[Sequence[CheckedCredential]]]


class ValidatedEndpoint(BaseModel):
    """One call of one endpoint."""

    step: str = Field(description="What was tried.")
    method: str
    route: str
    status_code: int | None = Field(description="null where it was not called, or did not answer.")
    expected: int = Field(description="The status that is right.")
    latency_ms: float | None
    target_ms: float
    verdict: Literal["ok", "slow", "failed"]
    detail: str | None = None


class EndpointReport(BaseModel):
    """What really calling the endpoints has shown."""

    status: Literal["ok", "warning", "error"] = Field(
        description="A missed target is a warning, a wrong answer an error."
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
    """What really signing, verifying and revoking has shown."""

    status: Literal["ok", "error"]
    started_at: datetime
    duration_ms: float
    checks: list[AuthenticationCheck]


class Run(Generic[T]):
    """A result, when its run began, and how long it took."""

    __slots__ = ("duration_ms", "result", "started_at")

    def __init__(self, result: T, started_at: datetime, duration_ms: float) -> None:
        self.result = result
        self.started_at = started_at
        self.duration_ms = duration_ms


class Validations:
    """The two validations on one event loop, each at most once at a time."""

    def __init__(self, endpoints: EndpointValidation, authentication: CheckAuthentication) -> None:
        self.endpoints: SharedRun[Run[EndpointResults]] = SharedRun(lambda: _timed(endpoints.run))
        self.authentication: SharedRun[Run[Sequence[CheckedCredential]]] = SharedRun(
            lambda: _timed(authentication)
        )

    async def close(self) -> None:
        """Ends what is under way, and waits until it has cleaned up."""
        await self.endpoints.close()
        await self.authentication.close()


def endpoints(prefix: str, validations: Callable[[], Validations], admits: Admits) -> list[Endpoint]:
    """``/monitoring/validate/endpoints`` and ``/monitoring/validate/authentication``.

    However many ask, there is one run of each at a time, so that nobody waits in line for it.
    """

    async def validate_endpoints(_: Request) -> Response:
        run = await validations().endpoints()
        found = [_step(each) for each in run.result.steps]
        return _report(run, run.result.status, "endpoints", found, run.result.detail)

    async def validate_authentication(_: Request) -> Response:
        run = await validations().authentication()
        status = "error" if any(each.status == "failed" for each in run.result) else "ok"
        return _report(run, status, "checks", [_check(each) for each in run.result])

    return [
        Endpoint(
            "GET", f"{prefix}/monitoring/validate/endpoints", validate_endpoints, "validateEndpoints",
            "Do the endpoints answer rightly?", _TAG,
            {200: Answer("They do; `warning` where one was too slow.", EndpointReport),
             503: Answer("One does not.", EndpointReport, headers=("Retry-After",))},
            scope=_SCOPE, admits=admits, standalone=True, starts=True,
            description="Really calls them, on a project that is removed for good afterwards.",
        ),
        Endpoint(
            "GET", f"{prefix}/monitoring/validate/authentication", validate_authentication,
            "validateAuthentication", "Does the authentication work?", _TAG,
            {200: Answer("It does.", AuthenticationReport),
             503: Answer("Part of it does not.", AuthenticationReport, headers=("Retry-After",))},
            scope=_SCOPE, admits=admits, standalone=True, starts=True,
            description="Really signs, verifies and revokes, with keys and a session that nobody else can use.",
        ),
    ]  # fmt: skip


async def _timed(work: Callable[[], Awaitable[T]]) -> Run[T]:
    started_at, began = utc_now(), perf_counter()
    result = await work()
    return Run(result, started_at, _milliseconds(perf_counter() - began))


def _report(
    run: Run[Any], status: str, name: str, found: list[dict[str, Any]], detail: str | None = None
) -> Response:
    content = {
        "status": status,
        "started_at": run.started_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "duration_ms": run.duration_ms,
        name: found,
        **_optional(detail),
    }
    if status == "error":
        return json_response(503, content, (*PRIVATE, _TRY_AGAIN))
    return json_response(200, content, PRIVATE)


def _step(result: StepResult) -> dict[str, Any]:
    step = result.step
    return {
        "step": step.does,
        "method": step.method,
        "route": step.route,
        "status_code": result.status_code,
        "expected": step.expected,
        "latency_ms": result.latency_ms,
        "target_ms": step.target_ms,
        "verdict": result.verdict,
        **_optional(result.detail),
    }


def _check(check: CheckedCredential) -> dict[str, Any]:
    return {
        "name": check.name,
        "status": check.status,
        "latency_ms": check.latency_ms,
        **_optional(check.detail),
    }


def _optional(detail: str | None) -> dict[str, str]:
    return {} if detail is None else {"detail": detail}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
