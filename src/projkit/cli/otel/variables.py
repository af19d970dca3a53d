"""What OpenTelemetry's own variables say, all of them held to be right before a worker starts.

Names and meanings are those of the OpenTelemetry specification ("Environment Variable Specification"); one that is
empty is not set. The SDK itself only logs what is wrong with a value, and then does something else. What the exporters
read themselves (headers, compression, certificates, time-out) is looked at here as well. No message shows an endpoint,
a header or an attribute: they may hold credentials.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from projkit.cli.otel.values import ATTRIBUTE, HEADER, Environment, wrong

SIGNALS: Final = ("traces", "metrics")
DEFAULT_ENDPOINT: Final = "http://localhost:4318"
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PARENT: Final = "parentbased_"
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
_LIMITS: Final = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
)  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """Which traces are kept: all (``always_on``), none, or of each hundred so many (``traceidratio``).

    With ``parent_based`` that is asked for traces that begin here alone; others are as their caller has decided.
    """

    kind: str
    ratio: float
    parent_based: bool

    def __str__(self) -> str:
        kept = {"always_on": "all", "always_off": "none"}.get(self.kind, f"{self.ratio:.4g} of them")
        return f"{kept}, or as the caller has decided" if self.parent_based else kept


@dataclass(frozen=True)
class Export:
    """Where telemetry goes, and how.

    Attributes:
        endpoints: by signal (``traces``, ``metrics``) the collector's URL, which may hold credentials; empty for the
            console. A signal that is not exported is not there.
        queue_size: so many spans at most are held.
        delay: milliseconds between two exports of spans, of at most ``batch_size`` each.
        interval: milliseconds between two exports of metrics, each of which may take ``timeout`` milliseconds.
    """

    endpoints: Mapping[str, str] = field(repr=False)
    sampling: Sampling
    queue_size: int
    batch_size: int
    delay: int
    interval: int
    timeout: int

    def __str__(self) -> str:
        signals: dict[str, list[str]] = defaultdict(list)
        for signal, url in self.endpoints.items():
            signals[origin_of(url) if url else "the console"].append(signal)
        return ", ".join(f"{' and '.join(names)} to {where}" for where, names in signals.items())


def origin_of(url: str) -> str:
    """A URL's scheme, host and port, without anything that could be a secret."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}"


def read_export(environ: Mapping[str, str], trace_ratio: float) -> Export | None:
    """What is to be exported; None where nothing is, and then no other variable is looked at.

    Raises:
        ConfigurationError: a value cannot be used; the message names the variable, what is wrong, and the mend.
    """
    read = Environment(environ)
    if read.choice("OTEL_SDK_DISABLED", ("true", "false"), "false") == "true":
        return None
    endpoints = {signal: url for signal in SIGNALS if (url := _endpoint(read, signal)) is not None}
    if not endpoints:
        return None
    _check_what_the_sdk_reads(read)
    queue_size = read.whole("OTEL_BSP_MAX_QUEUE_SIZE", 2048, least=1, most=1_000_000)
    return Export(
        endpoints=endpoints,
        sampling=_sampling(read, trace_ratio),
        queue_size=queue_size,
        batch_size=read.whole(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(512, queue_size), least=1, most=queue_size
        ),
        delay=read.whole("OTEL_BSP_SCHEDULE_DELAY", 5000, least=1),
        interval=read.whole("OTEL_METRIC_EXPORT_INTERVAL", 60_000, least=1),
        timeout=read.whole("OTEL_METRIC_EXPORT_TIMEOUT", 30_000, least=1),
    )


def _endpoint(read: Environment, signal: str) -> str | None:
    name, endpoint = read.of_signal(signal, "ENDPOINT")
    default = "otlp" if endpoint else "none"
    exporter = read.choice(f"OTEL_{signal.upper()}_EXPORTER", ("otlp", "console", "none"), default)
    if exporter != "otlp":
        return "" if exporter == "console" else None
    _check_exporter(read, signal)
    if name == f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT":
        url = endpoint
    else:
        url = f"{(endpoint or DEFAULT_ENDPOINT).removesuffix('/')}/v1/{signal}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:  # no port, or no address in brackets
        good = False
    if not good:
        raise wrong(
            name, "is not a URL with http or https", f"the collector's address, as in {DEFAULT_ENDPOINT}"
        )
    return url


def _check_exporter(read: Environment, signal: str) -> None:
    name, protocol = read.of_signal(signal, "PROTOCOL")
    if protocol not in {"", "http/protobuf"}:
        mend = f"http/protobuf, and the endpoint to the collector's port for HTTP, as in {DEFAULT_ENDPOINT}"
        raise wrong(name, f"is {protocol!r}, and projkit serve speaks http/protobuf alone", mend)
    read.choice(read.of_signal(signal, "COMPRESSION")[0], ("none", "gzip", "deflate"), "none")
    read.number(read.of_signal(signal, "TIMEOUT")[0], 10, least=0.001, most=3600, unit="seconds")
    for file in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        read.file(read.of_signal(signal, file)[0])
    read.pairs(read.of_signal(signal, "HEADERS")[0], HEADER, "api-key=…,other=…")
    if signal == "metrics":
        preference = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
        read.choice(preference, ("cumulative", "delta", "lowmemory"), "cumulative")
        histogram = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")
        read.choice("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", histogram, histogram[0])


def _check_what_the_sdk_reads(read: Environment) -> None:
    read.pairs(
        "OTEL_RESOURCE_ATTRIBUTES", ATTRIBUTE, "service.namespace=shop,deployment.environment.name=production"
    )
    read.choice("OTEL_METRICS_EXEMPLAR_FILTER", ("trace_based", "always_on", "always_off"), "trace_based")
    for limit in _LIMITS:
        read.whole(limit, 0, least=0)
    read.installed("OTEL_PROPAGATORS", "opentelemetry_propagator", "tracecontext,baggage")


def _sampling(read: Environment, trace_ratio: float) -> Sampling:
    names = (*_SAMPLERS, *(_PARENT + name for name in _SAMPLERS))
    name = read.choice("OTEL_TRACES_SAMPLER", names, "")
    if not name:
        return Sampling("traceidratio", trace_ratio, parent_based=True)
    kind = name.removeprefix(_PARENT)
    ratio = 1.0
    if kind == "traceidratio":
        ratio = read.number("OTEL_TRACES_SAMPLER_ARG", 1.0, least=0, most=1)
    return Sampling(kind, ratio, parent_based=name != kind)
