"""Traces and metrics that ``projkit serve`` exports: to a collector by OTLP over HTTP, or to the console.

The server owns its process, so it alone creates providers and sets them globally; a mounted kit uses its host's. Unless
something is exported, the SDK is not imported.
"""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from opentelemetry import trace

from projkit.cli.otel.export_settings import read_export_settings
from projkit.settings import Settings

if TYPE_CHECKING:
    from projkit.cli.otel.providers import TelemetryProviders

logger: Final = logging.getLogger("projkit")

__all__ = ["open_telemetry", "read_export_settings"]


def open_telemetry(settings: Settings, on_spans: Callable[[str, int], None]) -> "TelemetryProviders | None":
    """Create this process's providers and set them globally; call it in the process that serves, after any fork.

    Args:
        settings: for ``trace_ratio``.
        on_spans: called with an outcome (``exported``, ``failed`` or ``dropped``) and a number of spans, in any thread
            but never concurrently. It must not block, raise or end a span.

    Returns:
        None if nothing is exported, or if the process has a tracer provider already.

    Raises:
        ConfigurationError: a variable has an invalid value.
    """
    export = read_export_settings(os.environ, settings.trace_ratio)
    if export is None:
        return None
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        logger.info(
            "this process already has a tracer provider (opentelemetry-instrument?); it is used unchanged"
        )
        return None
    from projkit.cli.otel.providers import TelemetryProviders

    telemetry = TelemetryProviders(export, on_spans)
    telemetry.set_globally()
    return telemetry
