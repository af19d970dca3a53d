"""projkit around Django: ``uvicorn django_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs.

In a project of yours only the last lines are needed, in ``asgi.py``; the settings here stand for yours.
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
    MIDDLEWARE=[
        "projkit.hosts.django.PrincipalMiddleware"
    ],  # request.principal: who calls, or an anonymous one
    PROJKIT_KIT=f"{__name__}.kit",
)
django.setup()


async def home(request: HttpRequest) -> JsonResponse:
    """A page of the app's own."""
    return JsonResponse({"page": "the host's own"})


# Who may read projects may read this too: the kit's tokens and cookies open it. Plain functions may have it as well.
@require_scopes("projects:read")
async def whoami(request: HttpRequest) -> JsonResponse:
    """A guarded page of the app's own."""
    return JsonResponse({"subject": request.principal.subject})


urlpatterns = [path("", home), path("whoami", whoami)]

kit = ProjKit()  # settings from PROJKIT_* variables; opens nothing yet
# Django's ASGI app has neither mounts nor a lifespan: the kit is put around it and brings its own.
# Django's pages are timed and counted as the kit's are; ``route_of`` tells the figures which page a path is.
app = kit.wrap(get_asgi_application(), prefix="/kit", route_of=route_of)
