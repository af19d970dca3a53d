"""Django: ``request.principal``, ``@require_scopes("projects:read")``, and Django's users for the kit.

``settings.PROJKIT_KIT`` is the kit or its dotted path: ``"mysite.kit.kit"``. Everything here works over ASGI and WSGI;
the kit's own endpoints need ASGI.
"""

from projkit.hosts.django.guards import PrincipalMiddleware, require_scopes, route_of
from projkit.hosts.django.loop import run_sync
from projkit.hosts.django.threads import close_old_connections
from projkit.hosts.django.users import authenticate, session_principal, still_valid

__all__ = [
    "PrincipalMiddleware",
    "authenticate",
    "close_old_connections",
    "require_scopes",
    "route_of",
    "run_sync",
    "session_principal",
    "still_valid",
]
