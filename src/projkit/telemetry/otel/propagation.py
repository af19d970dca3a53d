"""The process's propagator of trace context."""

from opentelemetry.propagators.textmap import TextMapPropagator

from projkit.errors import ConfigurationError


def get_propagator() -> TextMapPropagator:
    """Return the global propagator, which OpenTelemetry creates from OTEL_PROPAGATORS when its module is imported.

    Raises:
        ConfigurationError: the variable names a propagator that is not installed.
    """
    try:
        from opentelemetry import propagate  # noqa: PLC0415 - importing the kit must not fail for this
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ConfigurationError(f"OTEL_PROPAGATORS: {reason}; set it to: tracecontext,baggage") from None
    return propagate.get_global_textmap()
