"""Tests that run inside of the new project, with its own test runner."""

import asyncio
import threading

import httpx2
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import Permission, User
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, TestCase, override_settings
from django.urls import path
from mysite import urls
from mysite.asgi import application
from mysite.kit import kit

from projkit.hosts.django import PrincipalMiddleware, require_scopes, run_sync
from projkit.testing import bearer
from projkit.testing.django import EmptyKit


@require_scopes("projects:write")
def planning(request: HttpRequest) -> HttpResponse:
    """Serve a page that requires a scope which PROJKIT_SCOPES gives to some."""
    return HttpResponse(request.principal.subject)


@require_scopes("projects:read")
@login_not_required  # type: ignore[untyped-decorator]  # Django has no types
def for_tokens(request: HttpRequest) -> HttpResponse:
    """Serve a guarded page in a project whose pages require a login to Django."""
    return HttpResponse(request.principal.subject)


def public(request: HttpRequest) -> HttpResponse:
    """Serve a page that is the same for everyone."""
    return HttpResponse("welcome")


async def greeting(request: HttpRequest) -> HttpResponse:
    """Serve an asynchronous page that reads the caller without a guard."""
    return HttpResponse(request.principal.subject)


urlpatterns = [
    *urls.urlpatterns,
    path("planning", planning),
    path("for-tokens", for_tokens),
    path("public", public),
    path("greeting", greeting),
]


@override_settings(ROOT_URLCONF=__name__)
class Views(EmptyKit, TestCase):  # type: ignore[misc]  # Django has no types
    """What the page's own tests leave out."""

    async def test_async_client(self) -> None:
        """Django's asynchronous client runs the middleware over ASGI, in the transaction of the test."""
        user = await User.objects.acreate_user("bob", password="x")
        client = AsyncClient()
        await client.aforce_login(user)
        async with kit.lifespan():
            response = await client.get("/whoami")
        assert response.json() == {"subject": str(user.pk)}

    def test_scopes(self) -> None:
        """A permission gives a scope on the next request, and a user without it gets the kit's 403."""
        user = User.objects.create_user("bob", password="x")
        self.client.force_login(user)
        assert self.client.get("/planning").json()["code"] == "insufficient_scope"
        user.user_permissions.add(Permission.objects.get(codename="change_user"))
        assert self.client.get("/planning").status_code == 200

    def test_forms(self) -> None:
        """A form of this site that a session authenticates is accepted, and one of another site is not."""
        self.client.force_login(User.objects.create_superuser("bob", password="x"))
        for site, status in (("same-origin", 200), ("cross-site", 403)):
            response = self.client.post("/planning", {"name": "Roof"}, headers={"Sec-Fetch-Site": site})
            assert response.status_code == status, response.content

    def test_deactivation(self) -> None:
        """A deactivated user is anonymous at the next request."""
        user = User.objects.create_user("bob", password="x")
        self.client.force_login(user)
        assert self.client.get("/").json() == {"caller": str(user.pk)}
        User.objects.filter(pk=user.pk).update(is_active=False)
        assert self.client.get("/").json() == {"caller": ""}

    def test_login_required_middleware(self) -> None:
        """Tokens of the kit reach a guarded page that Django's LoginRequiredMiddleware has been told to leave alone."""
        required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
        with self.settings(MIDDLEWARE=[*settings.MIDDLEWARE, required]):
            for path_, status in (("/for-tokens", 200), ("/planning", 302)):
                response = self.client.get(path_, headers=bearer(kit, "bob"))
                assert response.status_code == status, response.content

    def test_pages_that_do_not_read_the_caller(self) -> None:
        """A page that does not read the caller costs no queries and may be cached, for users who are logged in too."""
        self.client.force_login(User.objects.create_user("bob", password="x"))
        with self.assertNumQueries(0):
            response = self.client.get("/public")
        assert (response.content, "Vary" in response.headers) == (b"welcome", False)

    async def test_pages_over_asgi_that_do_not_read_the_caller(self) -> None:
        """The same over ASGI."""
        client = AsyncClient()
        await client.aforce_login(await User.objects.acreate_user("bob", password="x"))
        async with kit.lifespan():
            response = await client.get("/public")
            assert (response.content, "Vary" in response.headers) == (b"welcome", False)
            assert (await client.get("/")).headers["Vary"] == "Cookie"

    async def test_asynchronous_views_without_a_guard(self) -> None:
        """An asynchronous view reads the caller without waiting, over ASGI and WSGI."""
        user = await User.objects.acreate_user("bob", password="x")
        client = AsyncClient()
        await client.aforce_login(user)
        async with kit.lifespan():
            assert (await client.get("/greeting")).content.decode() == str(user.pk)

        def over_wsgi() -> bytes:
            self.client.force_login(user)
            return bytes(self.client.get("/greeting").content)

        assert (await sync_to_async(over_wsgi)()).decode() == str(user.pk)

    async def test_asynchronous_middleware(self) -> None:
        """Asynchronous middleware cannot read the caller, and the error says what it can do."""

        async def inner(request: HttpRequest) -> HttpResponse:
            with self.assertRaisesMessage(SynchronousOnlyOperation, "await kit.authenticate(request.scope)"):
                _ = request.principal
            async with kit.lifespan():
                return HttpResponse((await kit.authenticate(request.scope)).subject)

        request = AsyncRequestFactory().get("/", headers=bearer(kit, "bob"))
        assert (await PrincipalMiddleware(inner)(request)).content == b"bob"

    def test_one_event_loop(self) -> None:
        """All requests over WSGI use one event loop, in one thread."""
        for _ in range(3):
            self.client.get("/whoami", headers=bearer(kit, "bob"))
        assert [each.name for each in threading.enumerate()].count("projkit-wsgi") == 1

        async def loop() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        assert run_sync(loop) is run_sync(loop)


class Sessions(EmptyKit, TestCase):  # type: ignore[misc]  # Django has no types
    """Sessions of the kit that belong to users of Django."""

    async def test_deactivated_users_cannot_refresh(self) -> None:
        """A refresh gives the scopes that the user has now, and none to a deactivated or deleted user."""
        user = await User.objects.acreate_user("bob", password="correct horse")
        transport = httpx2.ASGITransport(app=application)
        async with kit.lifespan(), httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            login = {"username": "bob", "password": "correct horse"}
            tokens = (await client.post("/kit/api/v1/auth/login", json=login)).json()
            client.cookies.clear()
            for change, status in (({"is_superuser": True}, 200), ({"is_active": False}, 401)):
                await User.objects.filter(pk=user.pk).aupdate(**change)
                refresh = {"refresh_token": tokens["refresh_token"]}
                response = await client.post("/kit/api/v1/auth/refresh", json=refresh)
                client.cookies.clear()
                assert response.status_code == status, response.text
                tokens = response.json()
                if status == 200:
                    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
                    session = await client.get("/kit/api/v1/auth/session", headers=headers)
                    assert "admin" in session.json()["scopes"]

    async def test_wrong_passwords_count_against_the_account(self) -> None:
        """Guesses for the name of an account are limited, and the right password of another account is not."""
        await User.objects.acreate_user("bob", password="correct horse")
        await User.objects.acreate_user("eve", password="correct horse")
        transport = httpx2.ASGITransport(app=application)
        async with kit.lifespan(), httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            statuses = []
            for name, password in (
                *[("bob", "wrong")] * 10,
                ("bob", "correct horse"),
                ("eve", "correct horse"),
            ):
                login = {"username": name, "password": password}
                statuses.append((await client.post("/kit/api/v1/auth/login", json=login)).status_code)
        assert statuses == [401] * 10 + [429, 200]
