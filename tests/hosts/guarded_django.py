"""The pages of the guarded Django host."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from projkit.hosts.django import require_scopes


def sync_only(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that makes what is around it run in threads."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    return middleware


@method_decorator(require_scopes(), name="dispatch")
class Me(View):  # type: ignore[misc]  # Django has no types
    """A view of methods."""

    def get(self, request: HttpRequest) -> JsonResponse:
        """Reads."""
        return JsonResponse(request.principal.subject, safe=False)

    def post(self, request: HttpRequest) -> JsonResponse:
        """Writes."""
        return JsonResponse(request.principal.subject, safe=False)


@require_scopes("projects:read")
@require_scopes()
def read(request: HttpRequest) -> JsonResponse:
    """A sync view."""
    return JsonResponse(request.principal.subject, safe=False)


@require_scopes("projects:read", "monitoring:read")
async def both(request: HttpRequest) -> JsonResponse:
    """An async view."""
    return JsonResponse(request.principal.subject, safe=False)


async def opened(request: HttpRequest) -> JsonResponse:
    """An open view, which knows who calls all the same."""
    principal = getattr(request, "principal", None)
    return JsonResponse("open", safe=False, headers={"x-subject": getattr(principal, "subject", "")})


urlpatterns = [path("me", Me.as_view()), path("read", read), path("both", both), path("open", opened)]
