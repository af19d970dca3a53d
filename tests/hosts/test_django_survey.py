"""``kit.wrap`` names what it bypasses and hides in a Django project."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import SECRET
from tests.hosts.conftest import ROOT

HOST = """
import asyncio
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import include, path, re_path
from projkit import ProjKit
from tests.asgi import call, http_scope

def page(request, **parameters):
    return HttpResponse("the host's")

def check_host(get_response):
    return get_response

urlpatterns = [
    path("api/v1/", include([path("projects/<int:number>", page), path("other", page)])),
    re_path(r"^metrics$", page),
]
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", f"{__name__}.check_host"],
)
asyncio.run(call(ProjKit().wrap(get_asgi_application()), http_scope("/api/v1/other")))
"""


def test_django(tmp_path: Path) -> None:
    """The project's own middlewares, not Django's, and the hidden URL patterns are named."""
    done = subprocess.run(
        [sys.executable, "-c", HOST],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PROJKIT_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    bypassed, hidden = [line for line in done.stderr.splitlines() if "the kit" in line]
    assert "kit's requests: __main__.check_host. Put ASGI middleware" in bypassed
    assert "routes of the host: /api/v1/projects/<int:number>, /metrics. " in hidden
