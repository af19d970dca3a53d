"""projkit with Quart: ``hypercorn quart_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from quart import Quart, request

from projkit import ProjKit
from projkit.auth.middleware import PUBLIC
from projkit.hosts.quart import route_of

kit = ProjKit()  # reads PROJKIT_* variables; opens nothing
quart = Quart(__name__)


@quart.get("/")
async def home() -> dict[str, str]:
    """Serve a page of the host."""
    return {"page": "the host's own"}


@quart.get("/whoami")
async def whoami() -> dict[str, str]:
    """Serve a page of the host that requires a scope."""
    return {"subject": request.scope["user"].subject}  # type: ignore[typeddict-item]


# Quart has no mounts, so the kit wraps it: the kit's paths go to the kit, everything else to Quart, and one lifespan
# serves both. The rules in ``auth`` guard Quart's pages; without them, all are public. Quart's requests are timed and
# counted too, by the URL rules that ``route_of`` returns.
app = kit.wrap(
    quart, prefix="/kit", auth={"/": PUBLIC, "/whoami": ("projects:read",)}, route_of=route_of(quart)
)
