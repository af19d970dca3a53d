"""A Django host that follows docs/mounting.md: its users log in to the kit, until they are deactivated."""

import os
import re
from pathlib import Path
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse
from django.urls import path

DOCUMENT = Path(__file__).parents[2] / "docs" / "mounting.md"
PASSWORD = "correct horse battery staple"
NAMES = ("ann", "ben", "cleo", "dan", "eve", "flo")

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DJANGO_DATABASE"]}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of the tests",
    ALLOWED_HOSTS=["127.0.0.1"],
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402  # requires the setup
from django.core.asgi import get_asgi_application  # noqa: E402

from projkit import Principal, ProjKit, Rejected  # noqa: E402


def snippets() -> list[str]:
    """Return the Python examples of the section on users who lose access."""
    section = DOCUMENT.read_text().partition("### Users who lose access")[2].partition("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def authenticate(username: str, password: str) -> Principal | Rejected | None:
    """Check Django's users."""
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        return None
    subject = str(user.pk)
    return Principal(subject) if user.check_password(password) else Rejected(subject)


def find_user_by_id(subject: str) -> Any:
    """Return a user with the attribute that the example reads, or None."""
    user = User.objects.filter(pk=subject).first()
    if user is not None:
        user.may_write = user.is_staff
    return user


_signals, _hook = (each for each in snippets() if "FastAPI" not in each and "@app" not in each)
_names: dict[str, Any] = {
    "find_user_by_id": find_user_by_id, "authenticate": authenticate, "ProjKit": ProjKit, "User": User,
}  # fmt: skip
exec(_hook, _names)  # the example as it is in the documentation
kit: ProjKit = _names["kit"]
exec(_signals, _names)


def deactivate(request: HttpRequest, name: str) -> HttpResponse:
    """Deactivate a user in a synchronous view."""
    user = User.objects.get(username=name)
    user.is_active = False
    user.save()
    return HttpResponse()


async def deactivate_async(request: HttpRequest, name: str) -> HttpResponse:
    """Deactivate a user in an asynchronous view."""
    user = await User.objects.aget(username=name)
    user.is_active = False
    await user.asave()
    return HttpResponse()


async def delete(request: HttpRequest, name: str) -> HttpResponse:
    """Delete a user."""
    await User.objects.filter(username=name).adelete()
    return HttpResponse()


async def update(request: HttpRequest, name: str) -> HttpResponse:
    """Deactivate a user without a signal."""
    await sync_to_async(User.objects.filter(username=name).update)(is_active=False)
    return HttpResponse()


urlpatterns = [
    path("deactivate/<name>", deactivate),
    path("deactivate-async/<name>", deactivate_async),
    path("delete/<name>", delete),
    path("update/<name>", update),
]

if "DJANGO_CREATE" in os.environ:
    call_command("migrate", verbosity=0)
    for each in NAMES:
        User.objects.create_user(each, password=PASSWORD)

app = kit.wrap(get_asgi_application(), prefix="/kit")
