"""OpenTelemetry's variables on the command line."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from projkit import Settings
from projkit.cli.logs import RateLimitOtelLogs, configure_logging
from projkit.cli.otel import read_export_settings
from projkit.cli.otel.export_settings import ExportSettings
from projkit.errors import ConfigurationError
from projkit.testing.servers import free_port
from tests.cli.conftest import Run, loggers_kept
from tests.cli.running import projkit
from tests.conftest import SECRET
from tests.telemetry.otlp import Collector

ENDPOINT = "http://127.0.0.1:4318"


def read(**variables: str) -> ExportSettings | None:
    """Read the export settings."""
    return read_export_settings(variables, 1.0)


def read_some(**variables: str) -> ExportSettings:
    """Read the export settings, which must not be empty."""
    export = read(**variables)
    assert export is not None
    return export


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, f"traces and metrics to {ENDPOINT}"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://u:p@c/x?k"}, "traces to https://c:443"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://[::1]:9/m"}, "metrics to http://[::1]:9"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t"},
            f"traces to http://t:80, metrics to {ENDPOINT}",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, f"traces to {ENDPOINT}"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "traces to http://localhost:4318"),
        ({"OTEL_METRICS_EXPORTER": "Console"}, "metrics to the console"),
    ],
)
def test_destinations(variables: dict[str, str], shown: str) -> None:
    """A signal is exported if its exporter or an endpoint is set, and the description contains no secret."""
    assert str(read_some(**variables)) == shown


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_BSP_MAX_QUEUE_SIZE": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "grpc", "OTEL_SDK_DISABLED": "TRUE"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "grpc",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        },
    ],
)
def test_not_exported(variables: dict[str, str]) -> None:
    """Nothing is exported without a destination or when disabled, and other variables then have no effect."""
    assert read(**variables) is None


def test_endpoints() -> None:
    """The common endpoint is extended by the path of each signal; that of a signal is used unchanged."""
    common = read_some(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:1/hidden/")
    assert common.endpoints == {
        "traces": "http://c:1/hidden/v1/traces",
        "metrics": "http://c:1/hidden/v1/metrics",
    }
    assert "hidden" not in repr(common)
    own = read_some(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://c:1/x/")
    assert own.endpoints == {"traces": "http://c:1/x/"}


def test_batch_size() -> None:
    """A batch is at most as large as the queue."""
    default = read_some(OTEL_TRACES_EXPORTER="otlp", OTEL_BSP_MAX_QUEUE_SIZE="")
    assert (default.queue_size, default.batch_size) == (2048, 512)
    small = read_some(OTEL_TRACES_EXPORTER="otlp", OTEL_BSP_MAX_QUEUE_SIZE="100")
    assert (small.queue_size, small.batch_size) == (100, 100)


WRONG = {
    "OTEL_SDK_DISABLED": ("1", "set it to true or false"),
    "OTEL_TRACES_EXPORTER": ("zipkin", "'zipkin'; set it to otlp, console or none"),
    "OTEL_METRICS_EXPORTER": ("prometheus", "set it to otlp, console or none"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("localhost:4318", "is not an http or https URL; set it to"),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("http://c:secret/x", "as in http://localhost:4318"),
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": ("http://:4318", "is not an http or https URL"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("grpc", "supports http/protobuf only; set it to http/protobuf"),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/json", "'http/json'"),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("zstd", "set it to none, gzip or deflate"),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("10s", "set it to a number of seconds"),
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": ("nan", "from 0.001 to 3600"),
    "OTEL_EXPORTER_OTLP_HEADERS": ("authorization: secret", "not a name=value pair"),
    "OTEL_METRICS_EXEMPLAR_FILTER": ("x", "trace_based, always_on or always_off"),
    "OTEL_TRACES_SAMPLER": ("jaeger_remote", "set it to always_on, always_off"),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("0", "set it to a whole number from 1 to 1000000"),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("4096", "a whole number from 1 to 2048"),
    "OTEL_BSP_SCHEDULE_DELAY": ("-5", "a whole number from 1"),
    "OTEL_METRIC_EXPORT_INTERVAL": ("1e3", "a whole number from 1"),
    "OTEL_METRIC_EXPORT_TIMEOUT": ("²", "a whole number from 1"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": ("many", "a whole number from 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_values(name: str) -> None:
    """An invalid variable is reported with the problem and the fix, but without secrets."""
    value, words = WRONG[name]
    with pytest.raises(ConfigurationError) as error:
        read(**{"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, name: value})
    assert error.value.detail.startswith(f"{name} ")
    assert words in error.value.detail
    assert "secret" not in error.value.detail


@pytest.mark.parametrize("argument", ["2", "-0.1", "half", "nan"])
def test_invalid_ratio(argument: str) -> None:
    """A ratio must be a number from 0 to 1, wherever it is set."""
    with pytest.raises(
        ConfigurationError, match=r"OTEL_TRACES_SAMPLER_ARG is .*; set it to a number from 0 to 1"
    ):
        read(
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_TRACES_SAMPLER="traceidratio",
            OTEL_TRACES_SAMPLER_ARG=argument,
        )
    with pytest.raises(ConfigurationError, match="PROJKIT_TRACE_RATIO: "):
        Settings(trace_ratio=argument)


def test_valid_values() -> None:
    """Valid values are accepted regardless of case."""
    assert read(
        OTEL_SDK_DISABLED="False",
        OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_COMPRESSION="GZip",
        OTEL_EXPORTER_OTLP_TIMEOUT="2.5",
        OTEL_EXPORTER_OTLP_HEADERS="api-key=a%20b, authorization=Basic dTpw==,empty=,",
        OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT="0",
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_RESOURCE_ATTRIBUTES": "a=b,c"},
        {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "sum"},
        {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "x"},
        {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere.pem"},
    ],
)
def test_left_to_the_sdk(variables: dict[str, str]) -> None:
    """Values that the SDK replaces by defaults with a warning do not prevent the start."""
    assert read(OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, **variables)


def test_serve_rejects_invalid_variables(run: Run) -> None:
    """serve rejects an invalid variable before any worker starts."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    done = run("serve", "--port", "0", "--workers", "2", expect=1, PROJKIT_SECRET=SECRET, **variables)
    assert (
        "failed: OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', but projkit serve supports http/protobuf"
        in done.stderr
    )
    assert "is running at" not in done.stderr


def test_unavailable_propagator() -> None:
    """An unavailable propagator in OTEL_PROPAGATORS is rejected without a traceback."""
    done = projkit("serve", "--port", "0", expect=1, OTEL_TRACES_EXPORTER="console", OTEL_PROPAGATORS="b4")
    assert "OTEL_PROPAGATORS: Propagator b4 not found" in done.stderr
    assert "; set it to: tracecontext,baggage" in done.stderr
    assert ".;" not in done.stderr


def telemetry_line(run: Run, *, expect: int = 0, **variables: str) -> dict[str, object]:
    """Run check and return its line about telemetry."""
    found = json.loads(run("check", "--json", expect=expect, PROJKIT_SECRET=SECRET, **variables).stdout)
    (line,) = [each for each in found if each["name"] == "telemetry"]
    assert isinstance(line, dict)
    return line


def test_check(run: Run) -> None:
    """check shows destination and sampling, warns if no server is listening, and fails where serve would."""
    assert str(telemetry_line(run)["detail"]).startswith("not exported; ")
    with Collector() as collector:
        line = telemetry_line(run, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, PROJKIT_TRACE_RATIO="0.25")
        assert line["detail"] == (
            f"exports traces and metrics to {collector.endpoint}; "
            "sampled traces: a ratio of 0.25, or as the caller decided"
        )
        assert (line["ok"], line["warning"]) == (True, False)
    line = telemetry_line(
        run, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://u:hidden@127.0.0.1:{free_port()}/v1"
    )
    assert (line["ok"], line["warning"]) == (True, True)
    assert "no server is listening at http://127.0.0.1:" in str(line["detail"])
    assert "hidden" not in str(line["detail"])
    line = telemetry_line(run, expect=1, OTEL_TRACES_EXPORTER="jaeger")
    assert (line["ok"], "OTEL_TRACES_EXPORTER" in str(line["detail"])) == (False, True)


def run_script(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PROJKIT_SECRET": SECRET, **variables},
    )


@pytest.mark.parametrize(
    ("variables", "imported"), [({}, False), ({"OTEL_TRACES_EXPORTER": "console"}, True)]
)
def test_imports_without_export(variables: dict[str, str], imported: bool) -> None:
    """A worker imports the SDK and the exporter only if something is exported."""
    script = (
        "import sys; from projkit.cli.server import create_app; create_app()\n"
        "names = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'google.protobuf')\n"
        "print(*(name in sys.modules for name in names))"
    )
    done = run_script(script, **variables)
    assert done.stdout.split() == [str(imported)] * 3


def test_existing_provider_is_kept() -> None:
    """An existing global provider is kept, and no second exporter is created."""
    script = (
        "from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider\n"
        "trace.set_tracer_provider(mine := TracerProvider())\n"
        "from projkit.cli.server import create_app; create_app()\n"
        "assert trace.get_tracer_provider() is mine"
    )
    done = run_script(script, OTEL_TRACES_EXPORTER="console")
    assert "already has a tracer provider" in done.stderr
    assert "Overriding" not in done.stderr


@pytest.fixture
def loggers() -> Iterator[None]:
    """Restore the loggers after the test."""
    with loggers_kept():
        logging.getLogger().handlers = []
        yield


IN_A_SPAN = trace.set_span_in_context(NonRecordingSpan(SpanContext(0xA1, 0xB2, is_remote=False)))
TRACE_ID, SPAN_ID = f"{0xA1:032x}", f"{0xB2:016x}"


@pytest.mark.parametrize(
    ("in_span", "extra", "ids"),
    [
        (True, {}, (TRACE_ID, SPAN_ID)),
        (True, {"trace_id": "-"}, (TRACE_ID, SPAN_ID)),
        (True, {"trace_id": TRACE_ID}, (TRACE_ID, SPAN_ID)),
        (True, {"trace_id": "another"}, ("another", None)),
        (False, {"trace_id": "-"}, (None, None)),
        (False, {}, (None, None)),
    ],
)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_log_lines_name_their_span(
    capsys: pytest.CaptureFixture[str],
    loggers: None,
    log_format: str,
    in_span: bool,
    extra: dict[str, str],
    ids: tuple[str | None, str | None],
) -> None:
    """Every line that is logged within a span has its ids, unless it names another trace."""
    configure_logging(Settings(log_format=log_format, secret=SECRET))
    with trace.use_span(trace.get_current_span(IN_A_SPAN if in_span else None)):
        logging.getLogger("somebody.else").info("hello %s", "there", extra=extra)
    (line,) = capsys.readouterr().err.splitlines()
    if log_format == "json":
        content = json.loads(line)
        assert (content.get("trace_id"), content.get("span_id")) == ids
        assert content["message"] == "hello there"
    elif ids[1] is None:
        assert line.endswith("somebody.else: hello there")
    else:
        assert line.endswith(f"somebody.else: hello there trace_id={ids[0]} span_id={ids[1]}")


def test_the_sdk_does_not_flood_the_log() -> None:
    """OpenTelemetry's loggers warn once a minute, exporters never, and other loggers are not limited."""
    now = 0.0
    quiet = RateLimitOtelLogs(lambda: now)

    def passes(name: str, level: int = logging.WARNING) -> bool:
        return quiet.filter(logging.LogRecord(name, level, "", 0, str(time.time()), (), None))

    assert not passes("opentelemetry.sdk.trace", logging.INFO)
    assert [passes("opentelemetry.sdk.trace") for _ in range(3)] == [True, False, False]
    assert passes("opentelemetry.sdk.metrics")
    assert not passes("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    assert [passes("projkit") for _ in range(3)] == [True, True, True]
    now = 61.0
    assert passes("opentelemetry.sdk.trace")
