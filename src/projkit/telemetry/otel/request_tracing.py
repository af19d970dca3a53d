"""The start of each request's trace: joined, sampled or not recorded (:class:`projkit.http.tracing.Tracing`).

Rules:

- If the host's instrumentation has a span for the request, that is the request's span, and no other is created.
- Otherwise the kit creates one, with the TracerProvider it was given or else the global one, if there is any.
- The kit sets nothing globally and reads no environment variables.
- Probes and scrapes start no traces of their own; they join one that a caller has started.
- An error in tracing costs the trace, never the response.
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
from projkit.telemetry.otel.client_spans import Dependencies, RequestClientSpans
from projkit.telemetry.otel.head_sampling import HeadSampler, unsampled_parent
from projkit.telemetry.otel.propagation import get_propagator
from projkit.telemetry.otel.request_traces import JoinedTrace, RecordedTrace, UnrecordedTrace

logger: Final = logging.getLogger("projkit")

# A provider, or a function that is called for it when the kit starts.
TracerProviderOrFactory: TypeAlias = TracerProvider | Callable[[], TracerProvider]

_PROVIDER_CHECK_SECONDS: Final = 1.0
_W3C_HEADERS: Final = frozenset({b"traceparent", b"tracestate", b"baggage"})
_NO_PROVIDER: Final = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)


class RequestTracing:
    """The tracing of one kit's requests.

    Attributes:
        quiet_paths: the kit's paths that start no traces of their own.
        parent_headers: the headers from which a parent is extracted, in lower case.
    """

    def __init__(
        self,
        provider: TracerProviderOrFactory | None,
        *,
        version: str,
        addresses: ClientAddresses,
    ) -> None:
        self.quiet_paths: frozenset[str] = frozenset()
        self.parent_headers = _parent_headers()
        self._dependencies = Dependencies()
        self._attaches = True
        self._host_provider = provider
        self._version = version
        self._addresses = addresses
        self._tracer: Tracer | None = None
        self._head_sampler: HeadSampler | None = None
        self._check_at = float("-inf")
        self._warned = False

    def configure(self, dependencies: Dependencies, *, calls_host: bool) -> None:
        """Set what the kit's requests call, and whether that includes functions of the host.

        Those functions, and instrumented drivers, must see that a request is not recorded, or they would start traces
        of their own. Without them nothing looks at the current context, and not attaching it saves a microsecond.
        """
        self._dependencies = dependencies
        self._attaches = calls_host or dependencies.instrumented

    def host_provider(self) -> TracerProvider | None:
        """Return the provider that the host passed in, if any."""
        if self._host_provider is not None and not isinstance(self._host_provider, TracerProvider):
            self._host_provider = self._host_provider()
        return self._host_provider

    def has_current_context(self) -> bool:
        return bool(contexts.get_current())  # empty unless something has attached a context

    def start(self, scope: Scope, *, has_parent: bool) -> RequestTrace | None:
        try:
            if contexts.get_current():
                span = trace.get_current_span()
                if span is not trace.INVALID_SPAN and not span.get_span_context().is_remote:
                    return self._join(span, scope)
            tracer = self._tracer or self._find_tracer()
            if tracer is None or (scope[scope_keys.PATH] in self.quiet_paths and not has_parent):
                return None
            return self._start(tracer, scope, has_parent=has_parent)
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
        """Create the client spans of the body as children of the caller's span: a host's request, a Celery task."""
        span = trace.get_current_span()
        if not span.is_recording() or current_client_spans() is not None:
            yield
            return
        stats = RequestStats()
        stats.client_spans = self._client_spans(span)
        token = REQUEST_STATS.set(stats)
        try:
            yield
        finally:
            REQUEST_STATS.reset(token)

    def _find_tracer(self) -> Tracer | None:
        """Return the tracer once there is a provider: a host may set up its own after it has created the kit."""
        if (now := monotonic()) < self._check_at:
            return None
        self._check_at = now + _PROVIDER_CHECK_SECONDS
        provider = self.host_provider() or trace.get_tracer_provider()
        if isinstance(provider, _NO_PROVIDER):
            return None
        tracer = provider.get_tracer("projkit", self._version, schema_url=Schemas.V1_33_0.value)
        self._head_sampler = HeadSampler.of(tracer)
        self.parent_headers = _parent_headers()
        self._tracer = tracer
        return tracer

    def _join(self, span: Span, scope: Scope) -> RequestTrace:
        # An instrumentation with a response propagator sets the header itself.
        sends_header = not _has_response_propagator()
        if not span.is_recording():
            return UnrecordedTrace(span.get_span_context(), is_joined=True, sends_header=sends_header)
        return JoinedTrace(
            span,
            method_of(scope),
            self._client_spans(span),
            sends_header=sends_header,
            on_error=self._on_error,
            fastapi_telemetry=scope.get(scope_keys.FASTAPI_TELEMETRY),
        )

    def _client_spans(self, parent: Span) -> RequestClientSpans:
        tracer = self._tracer or self._find_tracer() or trace.NoOpTracer()
        return RequestClientSpans(
            tracer, trace.set_span_in_context(parent), self._dependencies, self._on_error
        )

    def _start(self, tracer: Tracer, scope: Scope, *, has_parent: bool) -> RequestTrace | None:
        parent = None
        if has_parent:
            if (unsampled := self._unsampled_parent(scope)) is not None:
                return UnrecordedTrace(unsampled, is_joined=False, sends_header=True)
            parent = get_propagator().extract(_carrier(scope, self.parent_headers))
            has_parent = trace.get_current_span(parent) is not trace.INVALID_SPAN
        if not has_parent and self._head_sampler is not None and not self._head_sampler.should_sample():
            return (
                self._unrecorded(self._head_sampler.unsampled_context(), parent) if self._attaches else None
            )
        method = method_of(scope)
        attributes = request_attributes(scope, self._addresses)
        span = tracer.start_span(name_of(method, None), parent, SpanKind.SERVER, attributes)
        if not span.is_recording():
            return self._unrecorded(span.get_span_context(), parent, sends_header=has_parent)
        context = trace.set_span_in_context(span, parent)
        client_spans = RequestClientSpans(tracer, context, self._dependencies, self._on_error)
        return RecordedTrace(span, method, client_spans, context, self._on_error)

    def _unrecorded(
        self, span_context: SpanContext, parent: Context | None, *, sends_header: bool = False
    ) -> UnrecordedTrace:
        token = None
        if self._attaches:
            token = contexts.attach(trace.set_span_in_context(NonRecordingSpan(span_context), parent))
        return UnrecordedTrace(span_context, is_joined=False, sends_header=sends_header, token=token)

    def _unsampled_parent(self, scope: Scope) -> SpanContext | None:
        """Return the context of a caller that does not record its trace, if nothing else has to be propagated."""
        if (
            self._attaches
            or self._head_sampler is None
            or not self._head_sampler.parent_based
            or self.parent_headers != _W3C_HEADERS
        ):
            return None
        values = [value for name, value in scope["headers"] if name == b"traceparent"]
        return unsampled_parent(values[0]) if len(values) == 1 else None

    def _on_error(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "tracing failed; requests are served untraced: %s: %s", type(error).__name__, error
            )


def _parent_headers() -> frozenset[bytes]:
    return frozenset(name.lower().encode() for name in get_propagator().fields)


def _has_response_propagator() -> bool:
    """Return whether a response propagator is set, which all instrumentations share."""
    module = sys.modules.get("opentelemetry.instrumentation.propagators")
    return module is not None and module.get_global_response_propagator() is not None


def _carrier(scope: Scope, names: frozenset[bytes]) -> dict[str, list[str]]:
    carrier: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        if name in names:
            carrier.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return carrier
