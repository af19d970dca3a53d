"""The Django host's pages."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.hosts.apps import HELLO, UNKNOWN


def hello(request: HttpRequest) -> HttpResponse:
    """Serve the host's page."""
    return HttpResponse(HELLO)


def broken(request: HttpRequest) -> HttpResponse:
    """Raise an error."""
    raise ValueError("broken")


def unknown(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Serve the host's response for unknown paths."""
    return HttpResponse(UNKNOWN, status=404)


class Handled:
    """The host's error handler."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass the request on."""
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse:
        """Return the response for a failed page."""
        return HttpResponse(f"the host's handler: {error}", status=418)


urlpatterns = [path("host/hello", hello), path("host/broken", broken)]
handler404 = unknown
