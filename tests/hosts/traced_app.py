"""Hosts that export their traces; ``HOST`` and ``TRACED`` select one.

``instrumented`` uses the framework's own OpenTelemetry instrumentation, ``wrapped`` uses
``kit.wrap(…, instrument=True)``, and ``plain`` neither.
"""

import os
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.hosts.apps import HOSTS, CountingKit

PREFIX = "/kit"


def route_of(host: str, app: Any) -> Any:
    """Return the ``route_of`` of frameworks whose templates the kit does not know."""
    if host == "django":
        from projkit.hosts import django

        return django.route_of
    if host == "quart":
        from projkit.hosts import quart

        return quart.route_of(app)
    return None


def instrument(host: str) -> None:
    """Instrument the framework before the application is created, as its documentation says."""
    if host == "fastapi":
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor().instrument()
    elif host == "starlette":
        from opentelemetry.instrumentation.starlette import StarletteInstrumentor

        StarletteInstrumentor().instrument()


def instrumented_django(kit: CountingKit) -> Any:
    """Instrument Django, after its settings are configured."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.hosts.django_urls",
        SECRET_KEY="of the tests",
        MIDDLEWARE=["tests.hosts.django_urls.Handled"],
    )
    DjangoInstrumentor().instrument()
    django.setup()
    return kit.wrap(get_asgi_application(), prefix=PREFIX)


def create_app() -> Any:
    """Create the application that the environment selects."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=100))
    trace.set_tracer_provider(provider)
    host, traced = os.environ["HOST"], os.environ["TRACED"]
    kit = CountingKit(os.environ["PROJKIT_DATABASE_URL"])
    if traced == "wrapped":
        app = HOSTS[host]({})
        return kit.wrap(app, prefix=PREFIX, instrument=True, route_of=route_of(host, app))
    if traced == "instrumented":
        if host == "django":
            return instrumented_django(kit)
        instrument(host)
    return HOSTS[host]({PREFIX: kit})
