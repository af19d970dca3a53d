"""Hosts that export their traces: ``HOST`` says which, ``TRACED`` how.

``instrumented`` by the framework's own OpenTelemetry instrumentation, with the kit mounted in it or put around it;
``wrapped`` by ``kit.wrap(…, instrument=True)``, and without either ``plain``.
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
    """How the kit learns the host's templates, where it does not know by itself."""
    if host == "django":
        from projkit.hosts import django

        return django.route_of
    if host == "quart":
        from projkit.hosts import quart

        return quart.route_of(app)
    return None


def instrument(host: str) -> None:
    """As the framework's documentation has it, before the app is made."""
    if host == "fastapi":
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor().instrument()
    elif host == "starlette":
        from opentelemetry.instrumentation.starlette import StarletteInstrumentor

        StarletteInstrumentor().instrument()


def instrumented_django(kit: CountingKit) -> Any:
    """Django wants its settings first."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="tests.hosts.django_urls", SECRET_KEY="of the tests",
                       MIDDLEWARE=["tests.hosts.django_urls.Handled"])  # fmt: skip
    DjangoInstrumentor().instrument()
    django.setup()
    return kit.wrap(get_asgi_application(), prefix=PREFIX)


def create_app() -> Any:
    """The app that the environment asks for."""
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
