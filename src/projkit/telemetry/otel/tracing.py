"""Begins the traces of requests (:class:`projkit.http.tracing.Tracing`).

Rules:
- where the host's instrumentation has a span for the request, that is the request's span, and no other is made;
- otherwise the kit makes one, with the TracerProvider that it was given or else the global one, if there is any;
- nothing global is ever set, and nothing is asked of the environment;
- probes and scrapes begin no traces of their own, and join one that a caller has begun;
- what goes wrong in here costs a trace and never a request.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final, TypeAlias

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Tracer, TracerProvider
from starlette.types import Scope

from projkit.http import scope_keys
from projkit.http.client import ClientAddresses
from projkit.http.tracing import RequestTrace
from projkit.request_stats import REQUEST_STATS, RequestStats, current_client_spans
from projkit.telemetry.otel.attributes import method_of, name_of, request_attributes
from projkit.telemetry.otel.chance import Chance, left_by_caller
from projkit.telemetry.otel.client_spans import Dependencies, RequestClientSpans
from projkit.telemetry.otel.mounts import Mounts
from projkit.telemetry.otel.propagation import get_propagator
from projkit.telemetry.otel.request_traces import Joined, NotRecorded, Recorded

logger: Final = logging.getLogger("projkit")

# A provider, or a function that is called for it when the kit starts.
TracerProviderOrFactory: TypeAlias = TracerProvider | Callable[[], TracerProvider]

# Where FastAPI's own telemetry keeps what it knows of a request; it leaves one alone where something is there already.
_LOOK_AGAIN_SECONDS: Final = 1.0
_W3C: Final = frozenset({b"traceparent", b"tracestate", b"baggage"})
_NOBODY: Final = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)


class RequestTracing:
    """Begins the traces of one kit's requests; ``quiet_paths`` are the kit's paths that begin none."""

    def __init__(
        self,
        provider: TracerProviderOrFactory | None,
        *,
        version: str,
        addresses: ClientAddresses,
        mounts: Mounts,
    ) -> None:
        self.quiet_paths: frozenset[str] = frozenset()
        self.parents = _parents()
        self._dependencies = Dependencies()
        self._attaches = True
        self._host_provider = provider
        self._version = version
        self._addresses = addresses
        self._tracer: Tracer | None = None
        self._chance: Chance | None = None
        self._look_at = float("-inf")
        self._mounts = mounts
        self._complained = False

    def expect(self, dependencies: Dependencies, *, calls_host: bool) -> None:
        """Says what requests will ask, and whether functions of the host's are among it.

        Those, and drivers that are instrumented, must see that a request is not recorded, or they would begin traces of
        their own; otherwise nobody looks, and that is a microsecond.
        """
        self._dependencies = dependencies
        self._attaches = calls_host or dependencies.elsewhere

    def host_provider(self) -> TracerProvider | None:
        """Return the provider that the host passed in, if any."""
        if self._host_provider is not None and not isinstance(self._host_provider, TracerProvider):
            self._host_provider = self._host_provider()
        return self._host_provider

    def has_begun(self) -> bool:
        return bool(contexts.get_current())  # which holds nothing at all where nobody has

    def begin(self, scope: Scope, *, has_parent: bool) -> RequestTrace | None:
        try:
            if contexts.get_current():
                span = trace.get_current_span()
                if span is not trace.INVALID_SPAN and not span.get_span_context().is_remote:
                    return self._join(span, scope)
            tracer = self._tracer or self._look()
            if tracer is None or (scope[scope_keys.PATH] in self.quiet_paths and not has_parent):
                return None
            return self._begin(tracer, scope, has_parent=has_parent)
        except Exception as error:
            self._on_error(error)
            return None

    def join(self, scope: Scope) -> RequestTrace | None:
        try:
            span = trace.get_current_span()
            if span is trace.INVALID_SPAN or span.get_span_context().is_remote:
                return None
            return self._join(span, scope)
        except Exception as error:
            self._on_error(error)
            return None

    @contextmanager
    def below_current_span(self) -> Iterator[None]:
        """What is asked within hangs below the span of whoever asks: a host's request, a task of Celery's."""
        span = trace.get_current_span()
        if not span.is_recording() or current_client_spans() is not None:
            yield
            return
        stats = RequestStats()
        stats.client_spans = self._spans_below(span)
        token = REQUEST_STATS.set(stats)
        try:
            yield
        finally:
            REQUEST_STATS.reset(token)

    def _look(self) -> Tracer | None:
        """The tracer, once there is a provider: a host may set up its own after the kit was made."""
        if (now := monotonic()) < self._look_at:
            return None
        self._look_at = now + _LOOK_AGAIN_SECONDS
        provider = self.host_provider() or trace.get_tracer_provider()
        if isinstance(provider, _NOBODY):
            return None
        tracer = provider.get_tracer("projkit", self._version, schema_url=Schemas.V1_33_0.value)
        self._chance = Chance.of(tracer)
        self.parents = _parents()
        self._tracer = tracer
        return tracer

    def _join(self, span: Span, scope: Scope) -> RequestTrace:
        # Its instrumentation answers with the header itself, if it was told to.
        told = _has_no_responseget_propagator()
        if not span.is_recording():
            return NotRecorded(span.get_span_context(), is_joined=True, told=told)
        return Joined(
            span, method_of(scope), self._mounts.of(scope), self._spans_below(span), told=told,
            on_error=self._on_error, native=scope.get(scope_keys.FASTAPI_TELEMETRY),
        )  # fmt: skip

    def _spans_below(self, span: Span) -> RequestClientSpans:
        tracer = self._tracer or self._look() or trace.NoOpTracer()
        return RequestClientSpans(tracer, trace.set_span_in_context(span), self._dependencies, self._on_error)

    def _begin(self, tracer: Tracer, scope: Scope, *, has_parent: bool) -> RequestTrace | None:
        parent = None
        if has_parent:
            if (left := self._left_by_caller(scope)) is not None:
                return NotRecorded(left, is_joined=False, told=True)
            parent = get_propagator().extract(_carrier(scope, self.parents))
            has_parent = trace.get_current_span(parent) is not trace.INVALID_SPAN
        if not has_parent and self._chance is not None and not self._chance.keeps():
            return self._drop(self._chance.dropped(), parent) if self._attaches else None
        method = method_of(scope)
        attributes = request_attributes(scope, self._addresses)
        span = tracer.start_span(name_of(method, None), parent, SpanKind.SERVER, attributes)
        if not span.is_recording():
            return self._drop(span.get_span_context(), parent, told=has_parent)
        context = trace.set_span_in_context(span, parent)
        below = RequestClientSpans(tracer, context, self._dependencies, self._on_error)
        return Recorded(span, method, self._mounts.of(scope), below, context, self._on_error)

    def _drop(self, span_context: SpanContext, parent: Context | None, *, told: bool = False) -> NotRecorded:
        token = None
        if self._attaches:
            token = contexts.attach(trace.set_span_in_context(NonRecordingSpan(span_context), parent))
        return NotRecorded(span_context, is_joined=False, told=told, token=token)

    def _left_by_caller(self, scope: Scope) -> SpanContext | None:
        """Of a caller's trace that is not recorded, where nothing else is to be passed on."""
        if self._attaches or self._chance is None or not self._chance.heeds_parents or self.parents != _W3C:
            return None
        found = [value for name, value in scope["headers"] if name == b"traceparent"]
        return left_by_caller(found[0]) if len(found) == 1 else None

    def _on_error(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("requests are answered without their traces: %s: %s", type(error).__name__, error)


def _parents() -> frozenset[bytes]:
    return frozenset(name.lower().encode() for name in get_propagator().fields)


def _has_no_responseget_propagator() -> bool:
    """Whether no instrumentation was told to answer with the header; they share one place to look."""
    shared = sys.modules.get("opentelemetry.instrumentation.propagators")
    return shared is None or shared.get_global_responseget_propagator() is None


def _carrier(scope: Scope, names: frozenset[bytes]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        if name in names:
            found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return found
