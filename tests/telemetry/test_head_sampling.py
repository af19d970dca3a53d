"""Head sampling agrees with the provider's sampler."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind

from projkit.telemetry.otel.head_sampling import HeadSampler, unsampled_parent
from tests.conftest import Client
from tests.telemetry.test_traces import PARENT, TRACE, URL, Spans, traced

pytestmark = pytest.mark.anyio
ASKED = 400


@pytest.fixture(
    params=[ParentBasedTraceIdRatio(0.25), TraceIdRatioBased(0.25)], ids=["below parents", "plain"]
)
async def sampled(request: pytest.FixtureRequest, sqlite_url: str) -> AsyncIterator[tuple[Client, Spans]]:
    """A client of a kit that traces a quarter of its requests."""
    spans = Spans(request.param)
    async with traced(sqlite_url, spans.provider) as client:
        yield client, spans


async def test_sampled_share(sampled: tuple[Client, Spans]) -> None:
    """The configured share of requests is traced, with trace ids that the sampler keeps."""
    client, spans = sampled
    for _ in range(ASKED):
        await client.get("/nowhere")
    found = [span for span in spans.all() if span.kind is SpanKind.SERVER]
    assert ASKED * 0.13 < len(found) < ASKED * 0.38  # five standard deviations
    bound = TraceIdRatioBased.get_bound_for_rate(0.25)
    assert all(span.context.trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < bound for span in found)
    assert len({span.context.trace_id for span in found}) == len(found)


@pytest.mark.parametrize(
    "header", ["canary", f"00-{'0' * 32}-{PARENT}-01", "00-" + "g" * 32 + f"-{PARENT}-01"]
)
async def test_invalid_parent(sampled: tuple[Client, Spans], header: str) -> None:
    """An invalid ``traceparent`` does not affect the share of traced requests."""
    client, spans = sampled
    for _ in range(100):
        await client.get("/nowhere", headers={"traceparent": header})
    assert 0 < len(spans.all()) < 60


@pytest.mark.parametrize("rate", [0.0, 1.0])
async def test_none_or_all(sqlite_url: str, rate: float) -> None:
    """Ratios of 0 and 1 trace nothing and everything."""
    spans = Spans(ParentBasedTraceIdRatio(rate))
    async with traced(sqlite_url, spans.provider) as client:
        for _ in range(20):
            await client.get("/nowhere")
    assert len(spans.all()) == 20 * rate


@pytest.mark.parametrize("state", [None, "a=1"])
async def test_unsampled_caller(sqlite_url: str, state: str | None) -> None:
    """The trace id of an unsampled caller is in the response, and nothing is recorded."""
    spans = Spans(ParentBasedTraceIdRatio(1.0))
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00", **({} if state is None else {"tracestate": state})}
    async with traced(sqlite_url, spans.provider) as client:
        answer = await client.get("/nowhere", headers=headers)
    assert answer.json()["trace_id"] == TRACE
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert answer.headers["traceresponse"].endswith("-00")
    assert spans.all() == ()


async def test_sampled_caller(sampled: tuple[Client, Spans]) -> None:
    """A sampled caller's trace is recorded; by a plain ratio only if its id is below the bound."""
    client, spans = sampled
    for _ in range(10):
        await client.get(URL, headers={"traceparent": f"00-{'1' * 32}-{PARENT}-01"})
    assert len([span for span in spans.all() if span.kind is SpanKind.SERVER]) == 10


class Contrary(TraceIdRatioBased):
    """A sampler that keeps the upper trace ids, contrary to its description."""

    def should_sample(self, parent_context: Any, trace_id: int, *more: Any, **others: Any) -> Any:
        return super().should_sample(parent_context, ~trace_id & self.TRACE_ID_LIMIT, *more, **others)


@pytest.mark.parametrize(
    "sampler", [ALWAYS_ON, ALWAYS_OFF, ParentBased(ALWAYS_ON), Contrary(0.25), ParentBased(Contrary(0.5))]
)
def test_other_samplers(sampler: Sampler) -> None:
    """Other samplers decide on each request, and the provider's id generator stays."""
    tracer: Any = TracerProvider(sampler=sampler, shutdown_on_exit=False).get_tracer("test")
    before = tracer.id_generator
    assert HeadSampler.of(tracer) is None
    assert tracer.id_generator is before


def test_shared_tracer() -> None:
    """A tracer that two kits share is changed once."""
    tracer: Any = TracerProvider(sampler=TraceIdRatioBased(0.5), shutdown_on_exit=False).get_tracer("test")
    own = tracer.id_generator
    for _ in range(2):
        assert HeadSampler.of(tracer) is not None
        assert tracer.id_generator.own is own
    if hasattr(own, "is_trace_id_random"):  # since OpenTelemetry 1.42, whose tracers call it
        assert tracer.id_generator.is_trace_id_random() == own.is_trace_id_random()


@pytest.mark.parametrize(
    ("traceparent", "left"),
    [
        (f"00-{TRACE}-{PARENT}-00", True), (f"00-{TRACE}-{PARENT}-02", True), (f"00-{TRACE}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT}-03", False), (f"01-{TRACE}-{PARENT}-00", False), (f"00-{'0' * 32}-{PARENT}-00", False),
        (f"00-{TRACE}-{'0' * 16}-00", False), (f"00-{TRACE}-{PARENT}-00-", False), ("", False),
    ],
)  # fmt: skip
def test_unsampled_parents(traceparent: str, left: bool) -> None:
    """Only a valid unsampled ``traceparent`` is recognised; the propagator parses the others."""
    found = unsampled_parent(traceparent.encode())
    assert (found is not None) == left
    assert found is None or (found.is_valid and not found.trace_flags.sampled)
