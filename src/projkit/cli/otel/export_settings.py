"""OpenTelemetry's environment variables, checked before a worker starts.

Names and meanings are those of the OpenTelemetry specification ("Environment Variable Specification"). Three kinds are
read here: those that decide what is exported and where to; those for whose invalid values the SDK, or an older version
of it, raises an error, which would end each worker with a traceback; and headers, whose invalid values the SDK ignores
with a warning that shows them. For any other, it logs a warning and uses the default, as the specification has it.

No message shows an endpoint or a header: they may contain credentials.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from projkit.cli.otel.environment import EnvironmentReader, invalid
from projkit.telemetry.otel.propagation import get_propagator

SIGNALS: Final = ("traces", "metrics")
DEFAULT_ENDPOINT: Final = "http://localhost:4318"
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PARENT: Final = "parentbased_"
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
# Read by the SDK, which raises an error for a negative value.
_LIMITS: Final = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
)


@dataclass(frozen=True)
class SamplerSettings:
    """The sampler of traces: ``always_on``, ``always_off`` or, with a ratio, ``traceidratio``.

    With ``parent_based`` it decides only on traces that begin here; others are sampled as their caller decided.
    """

    kind: str
    ratio: float
    parent_based: bool

    def __str__(self) -> str:
        kept = {"always_on": "all", "always_off": "none"}.get(self.kind, f"a ratio of {self.ratio:.4g}")
        return f"{kept}, or as the caller decided" if self.parent_based else kept


@dataclass(frozen=True)
class ExportSettings:
    """The destinations of telemetry, and what is exported to them.

    Attributes:
        endpoints: the collector's URL, which may contain credentials, by exported signal (``traces``, ``metrics``);
            "" for the console.
        queue_size: the maximum number of spans held in memory.
        batch_size: the maximum number of spans of one export.
        span_delay_ms: the pause between two exports of spans.
        metric_interval_ms: the pause between two exports of metrics.
        metric_timeout_ms: the time limit of an export of metrics.
    """

    endpoints: Mapping[str, str] = field(repr=False)
    sampler: SamplerSettings
    queue_size: int
    batch_size: int
    span_delay_ms: int
    metric_interval_ms: int
    metric_timeout_ms: int

    def __str__(self) -> str:
        destinations: dict[str, list[str]] = defaultdict(list)
        for signal, url in self.endpoints.items():
            destinations[origin_of(url) if url else "the console"].append(signal)
        return ", ".join(f"{' and '.join(signals)} to {each}" for each, signals in destinations.items())


def origin_of(url: str) -> str:
    """Return the scheme, host and port of a URL, without its credentials, path and query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}"


def read_export_settings(environ: Mapping[str, str], trace_ratio: float) -> ExportSettings | None:
    """Read what is exported; return None, without reading other variables, if nothing is.

    Raises:
        ConfigurationError: a value is invalid; the message names the variable, the problem and the fix.
    """
    reader = EnvironmentReader(environ)
    if reader.choice("OTEL_SDK_DISABLED", ("true", "false"), "false") == "true":
        return None
    endpoints = {signal: url for signal in SIGNALS if (url := _endpoint(reader, signal)) is not None}
    if not endpoints:
        return None
    get_propagator()
    for name in _LIMITS:
        reader.integer(name, 0, least=0)
    reader.choice("OTEL_METRICS_EXEMPLAR_FILTER", ("trace_based", "always_on", "always_off"), "trace_based")
    queue_size = reader.integer("OTEL_BSP_MAX_QUEUE_SIZE", 2048, least=1, most=1_000_000)
    batch_size = min(512, queue_size)
    return ExportSettings(
        endpoints=endpoints,
        sampler=_sampler(reader, trace_ratio),
        queue_size=queue_size,
        batch_size=reader.integer("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch_size, least=1, most=queue_size),
        # Not left to the SDK, which logs errors for empty values instead of using its defaults.
        span_delay_ms=reader.integer("OTEL_BSP_SCHEDULE_DELAY", 5000, least=1),
        metric_interval_ms=reader.integer("OTEL_METRIC_EXPORT_INTERVAL", 60_000, least=1),
        metric_timeout_ms=reader.integer("OTEL_METRIC_EXPORT_TIMEOUT", 30_000, least=1),
    )


def _endpoint(reader: EnvironmentReader, signal: str) -> str | None:
    """Return the URL to which a signal is exported, "" for the console, or None if it is not exported."""
    name, endpoint = reader.for_signal(signal, "ENDPOINT")
    default = "otlp" if endpoint else "none"
    exporter = reader.choice(f"OTEL_{signal.upper()}_EXPORTER", ("otlp", "console", "none"), default)
    if exporter != "otlp":
        return "" if exporter == "console" else None
    protocol_name, protocol = reader.for_signal(signal, "PROTOCOL")
    if protocol not in {"", "http/protobuf"}:
        problem = f"is {protocol!r}, but projkit serve supports http/protobuf only"
        fix = f"http/protobuf, and the endpoint to the collector's port for HTTP, as in {DEFAULT_ENDPOINT}"
        raise invalid(protocol_name, problem, fix)
    reader.choice(reader.for_signal(signal, "COMPRESSION")[0], ("none", "gzip", "deflate"), "none")
    reader.number(reader.for_signal(signal, "TIMEOUT")[0], 10, least=0.001, most=3600, unit="seconds")
    reader.check_headers(reader.for_signal(signal, "HEADERS")[0])
    if name == f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT":
        url = endpoint
    else:
        url = f"{(endpoint or DEFAULT_ENDPOINT).removesuffix('/')}/v1/{signal}"
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:  # an invalid port, or an invalid address in brackets
        is_valid = False
    if not is_valid:
        fix = f"the collector's address, as in {DEFAULT_ENDPOINT}"
        raise invalid(name, "is not an http or https URL", fix)
    return url


def _sampler(reader: EnvironmentReader, trace_ratio: float) -> SamplerSettings:
    names = (*_SAMPLERS, *(_PARENT + name for name in _SAMPLERS))
    name = reader.choice("OTEL_TRACES_SAMPLER", names, "")
    if not name:
        return SamplerSettings("traceidratio", trace_ratio, parent_based=True)
    kind = name.removeprefix(_PARENT)
    ratio = reader.number("OTEL_TRACES_SAMPLER_ARG", 1.0, least=0, most=1) if kind == "traceidratio" else 1.0
    return SamplerSettings(kind, ratio, parent_based=name != kind)
