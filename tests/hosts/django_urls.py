"""The Django host's pages."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.hosts.apps import HELLO, UNKNOWN


def hello(request: HttpRequest) -> HttpResponse:
    """The host's own page."""
    return HttpResponse(HELLO)


def broken(request: HttpRequest) -> HttpResponse:
    """A page that fails."""
    raise ValueError("broken")


def unknown(request: HttpRequest, exception: Exception) -> HttpResponse:
    """The host's own answer for what it does not know."""
    return HttpResponse(UNKNOWN, status=404)


class Handled:
    """The host's own error handler."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Passes on."""
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse:
        """Answers for a page that failed."""
        return HttpResponse(f"the host's handler: {error}", status=418)


urlpatterns = [path("host/hello", hello), path("host/broken", broken)]
handler404 = unknown
