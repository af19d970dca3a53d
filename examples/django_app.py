"""projkit with Django: ``uvicorn django_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs.

The settings here stand in for yours. docs/django.md sets up a project, with Django's users, sessions and tests.
"""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from projkit import ProjKit
from projkit.hosts.django import require_scopes, route_of

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for the example",
    MIDDLEWARE=["projkit.hosts.django.PrincipalMiddleware"],  # sets request.principal
    PROJKIT_KIT=f"{__name__}.kit",
)
django.setup()


async def home(request: HttpRequest) -> JsonResponse:
    """Serve a page of the host."""
    return JsonResponse({"page": "the host's own"})


# The kit's tokens and cookies authenticate this page. The decorator also works on synchronous views.
@require_scopes("projects:read")
async def whoami(request: HttpRequest) -> JsonResponse:
    """Serve a page of the host that requires a scope."""
    return JsonResponse({"subject": request.principal.subject})


urlpatterns = [path("", home), path("whoami", whoami)]

kit = ProjKit()  # reads PROJKIT_* variables; opens nothing
# Django's ASGI application has neither mounts nor a lifespan, so the kit wraps it and provides the lifespan. Django's
# requests are timed and counted too, by the URL patterns that ``route_of`` returns.
app = kit.wrap(get_asgi_application(), prefix="/kit", route_of=route_of)
