"""Whether the endpoints do what they claim: each is really called, and leaves nothing behind."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from uuid_utils.compat import uuid7

from projkit.errors import ProjkitError, UnavailableError
from projkit.http.application import Application
from projkit.http.in_process import Answer, ask
from projkit.http.problem import PROBLEM_TYPE
from projkit.http.routing import Answer as Declared
from projkit.http.routing import Endpoint
from projkit.identity import VALIDATION_SUBJECT
from projkit.settings import Settings
from projkit.tasks import run_to_completion
from projkit.validation.steps import Step, WrongAnswerError, all_steps

logger: Final = logging.getLogger("projkit")

T = TypeVar("T")
Verdict = Literal["ok", "slow", "failed"]
# Removes for good what the run of this mark has made.
ClearRows = Callable[[str], Awaitable[None]]
_ALL_SECONDS: Final = 12.0
_STEP_SECONDS: Final = 6.0  # longer than a statement may take, so that its endpoint says what fails
_CLEAR_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of one step; latency in milliseconds, None where it was not called or did not answer."""

    step: Step
    verdict: Verdict
    status_code: int | None = None
    latency_ms: float | None = None
    detail: str | None = None


@dataclass(slots=True)
class EndpointResults:
    """What became of all steps; ``detail`` says what went wrong beside them."""

    steps: list[StepResult] = field(default_factory=list)
    detail: str | None = None

    @property
    def status(self) -> Literal["ok", "warning", "error"]:
        """An error where one failed; a missed target is a warning, and so is what was left behind."""
        verdicts = {each.verdict for each in self.steps}
        if "failed" in verdicts:
            return "error"
        return "ok" if verdicts == {"ok"} and self.detail is None else "warning"


class EndpointValidation:
    """Calls the endpoints of ``app`` in process, as a caller that nobody can be.

    ``clear`` removes what was written; None where there is no database to write to.
    """

    def __init__(
        self,
        app: Application,
        settings: Settings,
        clear: ClearRows | None,
        *,
        seconds: float = _ALL_SECONDS,
        step_seconds: float = _STEP_SECONDS,
    ) -> None:
        self._app = app
        self._settings = settings
        self._clear = clear
        self._seconds = seconds
        self._step_seconds = step_seconds
        self._declared = {(each.method, each.path): each for each in app.table.endpoints}

    async def run(self) -> EndpointResults:
        """Takes every step in bounded time; whatever comes of it, nothing is left behind."""
        mark = f"{VALIDATION_SUBJECT}:{uuid7()}"
        results = EndpointResults()
        try:
            steps = all_steps(self._app.table.endpoints, self._settings, mark)
            await self._take(steps, results)
        finally:
            results.detail = await run_to_completion(self._clear_away(mark))
        return results

    async def _take(self, steps: Iterable[Step], results: EndpointResults) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._seconds
        failed: set[str] = set()
        for step in steps:
            if step.needs in failed:
                detail = f"not called: it needs the step {step.needs}, which failed"
                result = StepResult(step, "failed", detail=detail)
            elif loop.time() >= ends:
                detail = f"timed out: all of it may take {self._seconds:g} s"
                result = StepResult(step, "failed", detail=detail)
            else:
                result = await self._call(step, ends - loop.time())
                if result.verdict == "slow" and step.method == "GET" and loop.time() < ends:
                    # What is built once, at the first request, is not what the target is about.
                    result = await self._call(step, ends - loop.time())
            if result.verdict == "failed":
                failed.add(step.does)
            results.steps.append(result)

    async def _call(self, step: Step, left: float) -> StepResult:
        sent, seconds = step.request(), min(left, self._step_seconds)
        began = perf_counter()
        try:
            async with asyncio.timeout(seconds):
                answer = await ask(
                    self._app, step.method, sent.path, caller=sent.caller, query=sent.query, headers=sent.headers,
                    body=sent.body,
                )  # fmt: skip
        except TimeoutError:
            return StepResult(step, "failed", detail=f"timed out after {seconds:.1f} s")
        except ConnectionError:
            return StepResult(step, "failed", detail="it gave no answer")
        latency = round((perf_counter() - began) * 1000, 3)
        wrong = self._wrong(step, answer)
        if wrong is not None:
            return StepResult(step, "failed", answer.status, latency, wrong)
        if latency > step.target_ms:
            detail = f"slower than {step.target_ms:g} ms"
            return StepResult(step, "slow", answer.status, latency, detail)
        return StepResult(step, "ok", answer.status, latency)

    def _wrong(self, step: Step, answer: Answer) -> str | None:
        """What is wrong with the answer, in words that hold nothing of it but its problem's code and field names."""
        if answer.status != step.expected:
            return _explain(answer)
        try:
            _check_form(step, answer, self._declared.get((step.method, step.route)))
            step.check(answer)
        except WrongAnswerError as error:
            return str(error)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ):  # a member or a header is missing, or is another thing
            return "the answer is not what the OpenAPI document says"
        return None

    async def _clear_away(self, mark: str) -> str | None:
        if self._clear is None:
            return None
        try:
            async with asyncio.timeout(_CLEAR_SECONDS):
                await self._clear(mark)
        except Exception as error:  # whatever it is, what the steps have shown is worth telling
            known = isinstance(error, (ProjkitError, TimeoutError))
            text = "a validation could not remove its rows; a later one does: %s"
            logger.warning(text, type(error).__name__, exc_info=None if known else error)
            return "its rows could not be removed; a run ten minutes from now or later does it"
        return None


class SharedRun(Generic[T]):
    """One run at a time, in a task of its own: whoever asks meanwhile gets its result, and ends nothing by leaving."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """The result of the run that is under way, or of a new one.

        Raises:
            UnavailableError: the kit was stopped meanwhile.
        """
        task = self._task
        if task is None or task.done():
            # In a context of its own, so that what it does is not put down to the request that began it.
            task = asyncio.get_running_loop().create_task(self._run(), context=Context())
            self._task = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise UnavailableError("The service is stopping") from None
            raise

    async def close(self) -> None:
        """Ends a run that is under way, and waits until it has cleaned up."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> T:
        return await self._work()


def _explain(answer: Answer) -> str:
    if answer.headers.get("content-type") == PROBLEM_TYPE:
        try:
            problem = answer.json()
            return f"{problem['code']}: {problem['title']}"
        except (ValueError, KeyError, TypeError):
            pass
    return "another status than expected"


def _check_form(step: Step, answer: Answer, endpoint: Endpoint | None) -> None:
    """Holds the answer against what the endpoint declares, or against the one shape of all failures.

    Raises:
        WrongAnswerError: it has another form.
    """
    if step.expected >= 400:
        problem: dict[str, Any] = answer.json()
        if answer.headers["content-type"] != PROBLEM_TYPE or problem["status"] != answer.status:
            raise WrongAnswerError("it is no problem+json of its status")
        return
    declared: Declared | None = None if endpoint is None else endpoint.answers.get(answer.status)
    if declared is None or declared.schema is None:
        return
    if not answer.headers["content-type"].startswith(declared.content_type):
        raise WrongAnswerError(f"it is not {declared.content_type}")
    if isinstance(declared.schema, type) and issubclass(declared.schema, BaseModel):
        try:
            declared.schema.model_validate_json(answer.body)
        except ValidationError as error:
            names = sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()})
            raise WrongAnswerError(f"not as documented: {', '.join(names)}") from None
