"""A wrapped host's requests are counted under the route templates of its framework."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import SECRET

DJANGO = """
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
def hello(request, name):
    return HttpResponse("hello")
urlpatterns = [path("hello/<str:name>", hello)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
import django
django.setup()
from django.core.asgi import get_asgi_application
from projkit.hosts.django import route_of
app, options = get_asgi_application(), {"route_of": route_of}
"""
QUART = """
from quart import Quart
from projkit.hosts.quart import route_of
app = Quart("host")
@app.route("/hello/<name>")
async def hello(name):
    return "hello"
options = {"route_of": route_of(app)}
"""
LITESTAR = """
from litestar import Litestar, get
@get("/hello/{name:str}")
async def hello(name: str) -> str:
    return "hello"
app, options = Litestar([hello]), {}
"""
ASK = """
import asyncio, json, os
import httpx2
from projkit import ProjKit, Settings
async def main():
    kit = ProjKit(Settings(database_url="sqlite:///host.db", secret=os.environ["SECRET"]))
    transport = httpx2.ASGITransport(app=kit.wrap(app, **options))
    async with kit.lifespan(), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/hello/a", "/hello/b", "/none/1", "/none/2"):
            answer = await client.get(path)
            assert "x-process-time" in answer.headers, path
        report = (await client.get("/api/v1/monitoring/metrics/performance")).json()
    print(json.dumps({each["route"]: each["count"] for each in report["endpoints"]}))
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("script", "template"),
    [(DJANGO, "/hello/<str:name>"), (QUART, "/hello/<name>"), (LITESTAR, "/hello/{name}")],
    ids=["django", "quart", "litestar"],
)
def test_templates(script: str, template: str) -> None:
    """Each route is counted under its template in every framework; unknown paths share one name."""
    done = subprocess.run(
        [sys.executable, "-c", script + ASK],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "SECRET": SECRET},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {template: 2, "__unknown__": 2}
