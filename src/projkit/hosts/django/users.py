"""Django's users as callers of the kit: ``authenticate``, ``session_principal`` and ``still_valid`` for ``ProjKit``.

The subject of a user is its primary key. ``settings.PROJKIT_SCOPES`` says who has which scope::

    PROJKIT_SCOPES = {
        "projects:read": "*",                                        # every active user
        "projects:write": ["group:Planners", "auth.change_user"],    # any of a group, a permission,
        "admin": "superuser",                                        # "superuser" and "staff"
    }

Without it, every active user has ``projects:read`` and ``projects:write``.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final, TypeVar

from django import db
from django.conf import settings
from django.contrib import auth
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.http import HttpRequest
from starlette.types import Scope

from projkit.auth.credentials import cookie_values
from projkit.errors import AmbiguousCredentialsError, UnavailableError
from projkit.host_calls import REQUEST_THREADS, HostThreads
from projkit.host_deadlines import REQUEST_SECONDS
from projkit.hosts.django.scopes import request_of_scope
from projkit.hosts.django.threads import close_unusable_connections
from projkit.identity import DEFAULT_SCOPES, NOT_MINE, HostCredential, NotMine, Principal, Rejected
from projkit.per_loop import PerLoop

T = TypeVar("T")

_SETTING: Final = "PROJKIT_SCOPES"
_EVERYONE: Final = "*"
_GROUP: Final = "group:"
_LOST: Final = (db.InterfaceError, db.OperationalError)
_threads: Final = PerLoop(
    partial(HostThreads, "session", threads=REQUEST_THREADS, seconds=REQUEST_SECONDS), HostThreads.close
)


def authenticate(username: str, password: str) -> Principal | Rejected | None:
    """Check a username and password with Django's authentication backends; for ``ProjKit(authenticate=…)``.

    A wrong password counts against the account, whatever spelling of its name the database takes for the same.

    Raises:
        UnavailableError: Django's database does not respond.
    """
    return retry_once(partial(_authenticate, username, password))


async def session_principal(scope: Scope) -> Principal | HostCredential | NotMine:
    """Return the user who is logged in to Django; for ``ProjKit(get_principal=…)``.

    Requests without a session of Django, and those with an ``Authorization`` header, are passed on to the kit's own
    credentials. The session is read at each request, so that a logout ends the access at once. It is never changed.

    Raises:
        AmbiguousCredentialsError: the session cookie was sent twice.
        UnavailableError: Django's database does not respond.
    """
    if any(name == b"authorization" for name, _ in scope["headers"]):
        return NOT_MINE
    request = request_of_scope(scope)
    # Also without a cookie: a test or another middleware may have set the user.
    work: Callable[[], Principal | None]
    if request is not None and hasattr(request, "user"):
        work = partial(_user_of_request, request)
    else:
        cookies = cookie_values(scope["headers"], settings.SESSION_COOKIE_NAME.encode())
        if not cookies:
            return NOT_MINE
        if len(cookies) > 1:
            raise AmbiguousCredentialsError
        work = partial(_user_of_session, cookies[0].decode("latin-1"))
    principal = await _threads.get().wrap(retry_once)(work)
    if principal is None:
        return NOT_MINE
    # Django's CSRF middleware checks the forms of Django's views; the kit checks the origin of both.
    return principal if request is not None else HostCredential(principal, cookie=True)


def still_valid(subject: str) -> frozenset[str] | None:
    """Return the scopes that an active user of Django has now, else None; for ``ProjKit(still_valid=…)``.

    Raises:
        UnavailableError: Django's database does not respond.
    """
    principal = retry_once(partial(_find_user, subject))
    return None if principal is None else principal.scopes


def _find_user(subject: str) -> Principal | None:
    users = auth.get_user_model()
    try:
        return principal_of(users._default_manager.get(pk=subject))  # noqa: SLF001  # as backends do
    except (users.DoesNotExist, ValueError, ValidationError):  # the latter two: it is no primary key
        return None


def _authenticate(username: str, password: str) -> Principal | Rejected | None:
    principal = principal_of(auth.authenticate(username=username, password=password))
    if principal is not None:
        return principal
    users = auth.get_user_model()
    try:
        return Rejected(str(users._default_manager.get_by_natural_key(username).pk))  # noqa: SLF001  # as backends do
    except users.DoesNotExist:
        return None


def _user_of_request(request: HttpRequest) -> Principal | None:
    return principal_of(request.user)


def _user_of_session(session_key: str) -> Principal | None:
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    # get_user() replaces the key of a session from before a change of SECRET_KEY, but the browser would not learn it.
    session.cycle_key = session.flush = _do_nothing
    request = HttpRequest()
    request.session = session
    return principal_of(auth.get_user(request))


def _do_nothing() -> None:
    """Leave the session as it is."""


def principal_of(user: Any) -> Principal | None:
    """Return a user as a principal, with the scopes of the settings; None if it is anonymous or inactive.

    Raises:
        ImproperlyConfigured: ``PROJKIT_SCOPES`` contains something unknown.
    """
    if user is None or not user.is_authenticated or not user.is_active:
        return None
    return Principal(str(user.pk), _scopes_of(user))


def _scopes_of(user: Any) -> frozenset[str]:
    mapping: Mapping[str, str | Collection[str]] | None = getattr(settings, _SETTING, None)
    if mapping is None:
        return frozenset(DEFAULT_SCOPES)
    holds = _Holder(user)
    return frozenset(
        scope
        for scope, required in mapping.items()
        if any(map(holds, (required,) if isinstance(required, str) else required))
    )


class _Holder:
    """A user, and what it is a member of."""

    def __init__(self, user: Any) -> None:
        self._user = user
        self._groups: frozenset[str] | None = None

    def __call__(self, required: str) -> bool:
        if required == _EVERYONE:
            return True
        if required in {"staff", "superuser"}:
            return bool(getattr(self._user, f"is_{required}", False))
        if required.startswith(_GROUP):
            if self._groups is None:
                self._groups = self._read_groups()
            return required.removeprefix(_GROUP) in self._groups
        if "." in required:
            return hasattr(self._user, "has_perm") and bool(self._user.has_perm(required))
        raise ImproperlyConfigured(
            f"{_SETTING}: {required!r} is none of '*', 'staff', 'superuser', 'group:NAME' and 'app_label.codename'"
        )

    def _read_groups(self) -> frozenset[str]:
        # A model without PermissionsMixin has no groups.
        groups = getattr(self._user, "groups", None)
        return frozenset() if groups is None else frozenset(groups.values_list("name", flat=True))


def retry_once(work: Callable[[], T]) -> T:
    """Call ``work``, and again on a new connection if the old one was lost, which Django notices by the failure only.

    Raises:
        UnavailableError: Django's database does not respond.
    """
    try:
        return work()
    except _LOST:
        if any(each.in_atomic_block for each in db.connections.all(initialized_only=True)):
            raise
        close_unusable_connections()
    try:
        return work()
    except _LOST as error:
        raise UnavailableError("Django's database does not respond") from error
