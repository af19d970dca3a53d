"""The views of the guarded Django host."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from projkit.hosts.django import require_scopes, run_sync
from tests.hosts import guarded_apps


def sync_only(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Synchronous middleware, which makes Django run what is around it in threads."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    return middleware


@method_decorator(require_scopes(), name="dispatch")
class Me(View):  # type: ignore[misc]  # Django has no types
    """A class-based view."""

    def get(self, request: HttpRequest) -> JsonResponse:
        """Return the caller."""
        return JsonResponse(request.principal.subject, safe=False)

    def post(self, request: HttpRequest) -> JsonResponse:
        """Return the caller of a POST."""
        return JsonResponse(request.principal.subject, safe=False)


@require_scopes("projects:read")
@require_scopes()
def read(request: HttpRequest) -> JsonResponse:
    """Serve a synchronous view."""
    return JsonResponse(request.principal.subject, safe=False)


@require_scopes("projects:read", "monitoring:read")
async def both(request: HttpRequest) -> JsonResponse:
    """Serve an asynchronous view."""
    return JsonResponse(request.principal.subject, safe=False)


async def opened(request: HttpRequest) -> JsonResponse:
    """Serve a public view, which knows the caller too."""
    principal = getattr(request, "principal", None)
    return JsonResponse("open", safe=False, headers={"x-subject": getattr(principal, "subject", "")})


def unguarded(request: HttpRequest) -> JsonResponse:
    """List the projects of any caller."""
    return JsonResponse(len(run_sync(guarded_apps.kit.projects.list, request.principal).items), safe=False)


async def unguarded_async(request: HttpRequest) -> JsonResponse:
    """List the projects of any caller in an asynchronous view."""
    return JsonResponse(len((await guarded_apps.kit.projects.list(request.principal)).items), safe=False)


urlpatterns = [
    path("me", Me.as_view()),
    path("read", read),
    path("both", both),
    path("open", opened),
    path("unguarded", unguarded),
    path("unguarded/async", unguarded_async),
]
