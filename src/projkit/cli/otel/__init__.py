"""Traces and metrics that ``projkit serve`` exports: to a collector by OTLP over HTTP, or to the console.

The server owns its process, so it alone makes providers and sets them for the process; a mounted kit takes what its
host has. Where nothing is exported, nothing of the SDK is imported.
"""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from opentelemetry import trace

from projkit.cli.otel.variables import read_export
from projkit.settings import Settings

if TYPE_CHECKING:
    from projkit.cli.otel.providers import TelemetryProviders

logger: Final = logging.getLogger("projkit")

__all__ = ["open_telemetry", "read_export"]


def open_telemetry(settings: Settings, on_spans: Callable[[str, int], None]) -> "TelemetryProviders | None":
    """The providers of this process, set for all of it; None where nothing is exported, or somebody has set others.

    To be called in the process that serves, after any fork.

    Args:
        settings: for ``trace_ratio``.
        on_spans: told of so many spans that were ``exported``, have ``failed`` or were ``dropped``. It is called in
            any thread, but never by two at a time, and must neither wait nor raise nor end a span.

    Raises:
        ConfigurationError: a variable has no value that could be used.
    """
    export = read_export(os.environ, settings.trace_ratio)
    if export is None:
        return None
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        logger.info(
            "this process has a tracer provider already (opentelemetry-instrument?), which is used as it is"
        )
        return None
    from projkit.cli.otel.providers import TelemetryProviders

    telemetry = TelemetryProviders(export, on_spans)
    telemetry.set_globally()
    return telemetry
