"""Self-test of the endpoints: call each one, check its response, and leave nothing behind."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError
from uuid_utils.compat import uuid7

from projkit.errors import ProjkitError
from projkit.http.application import Application
from projkit.http.in_process import InProcessResponse, call_in_process
from projkit.http.problem import PROBLEM_TYPE
from projkit.http.routing import Endpoint, ResponseSpec
from projkit.identity import VALIDATION_SUBJECT
from projkit.settings import Settings
from projkit.tasks import run_to_completion
from projkit.validation.cleanup import ValidationRows
from projkit.validation.results import CheckResult, ExpectationError, expect
from projkit.validation.steps import Step, all_steps

logger: Final = logging.getLogger("projkit")

_RUN_SECONDS: Final = 12.0
# Longer than a statement may take, so that the endpoint itself reports the failure.
_STEP_SECONDS: Final = 6.0
_CLEANUP_SECONDS: Final = 3.0


@dataclass(slots=True)
class EndpointResults:
    """The results of all steps; ``detail`` says what went wrong besides them."""

    steps: list[tuple[Step, CheckResult]] = field(default_factory=list)
    detail: str | None = None

    @property
    def status(self) -> Literal["ok", "warning", "error"]:
        """``error`` if a step failed, ``warning`` if one missed its target or rows were left behind."""
        statuses = {result.status for _, result in self.steps}
        if "failed" in statuses:
            return "error"
        return "ok" if statuses == {"ok"} and self.detail is None else "warning"


class EndpointValidation:
    """Calls to every endpoint of ``app``, in process, as a caller that no client can be.

    Args:
        app: the kit's application, with :func:`~projkit.http.in_process.in_process_caller` as authentication.
        settings: the kit's settings.
        rows: removes the rows that the run writes; None if there is no database to write to.
        run_seconds: the time limit of the whole run.
        step_seconds: the time limit of each step.
    """

    def __init__(
        self,
        app: Application,
        settings: Settings,
        rows: ValidationRows | None,
        *,
        run_seconds: float = _RUN_SECONDS,
        step_seconds: float = _STEP_SECONDS,
    ) -> None:
        self._app = app
        self._settings = settings
        self._rows = rows
        self._run_seconds = run_seconds
        self._step_seconds = step_seconds
        self._endpoints = {(each.method, each.path): each for each in app.table.endpoints}

    async def run(self) -> EndpointResults:
        """Run every step in bounded time, and remove what was written even if the run is cancelled."""
        run_id = f"{VALIDATION_SUBJECT}:{uuid7()}"
        results = EndpointResults()
        try:
            await self._run_steps(all_steps(self._app.table.endpoints, self._settings, run_id), results)
        finally:
            results.detail = await run_to_completion(self._remove_rows(run_id))
        return results

    async def _run_steps(self, steps: Iterable[Step], results: EndpointResults) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._run_seconds
        failed: set[str] = set()
        for step in steps:
            if step.needs in failed:
                detail = f"not called: the step {step.needs}, which it needs, failed"
                result = CheckResult(step.name, "failed", detail=detail)
            elif loop.time() >= deadline:
                detail = f"timed out: the whole run is limited to {self._run_seconds:g} s"
                result = CheckResult(step.name, "failed", detail=detail)
            else:
                result = await self._call(step, deadline - loop.time())
                if result.status == "slow" and step.method == "GET" and loop.time() < deadline:
                    # The target does not cover what is built once, at the first request.
                    result = await self._call(step, deadline - loop.time())
            if result.status == "failed":
                failed.add(step.name)
            results.steps.append((step, result))

    async def _call(self, step: Step, remaining_seconds: float) -> CheckResult:
        request, seconds = step.request(), min(remaining_seconds, self._step_seconds)
        began = perf_counter()
        try:
            async with asyncio.timeout(seconds):
                response = await call_in_process(
                    self._app,
                    step.method,
                    request.path,
                    caller=request.caller,
                    query=request.query,
                    headers=request.headers,
                    body=request.body,
                )
        except TimeoutError:
            return CheckResult(step.name, "failed", detail=f"timed out after {seconds:.1f} s")
        except ConnectionError:
            return CheckResult(step.name, "failed", detail="it sent no response")
        latency_ms = round((perf_counter() - began) * 1000, 3)
        status: Literal["ok", "slow", "failed"] = "ok"
        detail = self._fault(step, response)
        if detail is not None:
            status = "failed"
        elif latency_ms > step.target_ms:
            status, detail = "slow", f"slower than {step.target_ms:g} ms"
        return CheckResult(step.name, status, latency_ms, detail, response.status)

    def _fault(self, step: Step, response: InProcessResponse) -> str | None:
        """Describe what is wrong with the response, quoting nothing but a problem's code and title and field names."""
        if response.status != step.expected_status:
            return _unexpected_status(response)
        try:
            _expect_documented(step, response, self._endpoints.get((step.method, step.route)))
            step.check(response)
        except ExpectationError as error:
            return str(error)
        except (ValueError, KeyError, TypeError, AttributeError):
            # A member or header is missing or has another type.
            return "the response does not match the OpenAPI document"
        return None

    async def _remove_rows(self, run_id: str) -> str | None:
        if self._rows is None:
            return None
        try:
            async with asyncio.timeout(_CLEANUP_SECONDS):
                await self._rows.remove(run_id)
        except Exception as error:  # whatever it is, the results of the steps are still reported
            expected = isinstance(error, (ProjkitError, TimeoutError))
            text = "a validation failed to remove its rows; a later run removes them: %s"
            logger.warning(text, type(error).__name__, exc_info=None if expected else error)
            return "its rows could not be removed; a run at least ten minutes later removes them"
        return None


def _unexpected_status(response: InProcessResponse) -> str:
    if response.headers.get("content-type") == PROBLEM_TYPE:
        try:
            problem = response.json()
            return f"{problem['code']}: {problem['title']}"
        except (ValueError, KeyError, TypeError):
            pass
    return "unexpected status code"


def _expect_documented(step: Step, response: InProcessResponse, endpoint: Endpoint | None) -> None:
    """Compare the response with what the endpoint declares, or with problem+json if it is an error.

    Raises:
        ExpectationError: they do not match.
    """
    if step.expected_status >= 400:
        problem: dict[str, Any] = response.json()
        is_problem = response.headers["content-type"] == PROBLEM_TYPE and problem["status"] == response.status
        expect(is_problem, "it is not problem+json with its status")
        return
    declared: ResponseSpec | None = None if endpoint is None else endpoint.responses.get(response.status)
    if declared is None or declared.schema is None:
        return
    is_declared_type = response.headers["content-type"].startswith(declared.content_type)
    expect(is_declared_type, f"the content type is not {declared.content_type}")
    if isinstance(declared.schema, type) and issubclass(declared.schema, BaseModel):
        try:
            declared.schema.model_validate_json(response.body)
        except ValidationError as error:
            names = sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()})
            raise ExpectationError(f"not as documented: {', '.join(names)}") from None
