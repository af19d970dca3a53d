"""projkit around Quart: ``hypercorn quart_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from quart import Quart, request

from projkit import ProjKit
from projkit.auth.middleware import PUBLIC
from projkit.hosts.quart import route_of

kit = ProjKit()  # settings from PROJKIT_* variables; opens nothing yet
quart = Quart(__name__)


@quart.get("/")
async def home() -> dict[str, str]:
    """A page of the app's own."""
    return {"page": "the host's own"}


@quart.get("/whoami")
async def whoami() -> dict[str, str]:
    """A guarded page of the app's own."""
    return {"subject": request.scope["user"].subject}  # type: ignore[typeddict-item]


# Quart has no mounts: the kit's paths go to the kit, everything else to Quart, and one lifespan is for both.
# The rules guard Quart's own pages: the kit's tokens and cookies open them. Without ``auth`` all are open.
# Quart's pages are timed and counted as the kit's are; ``route_of`` tells the figures which page a path is.
app = kit.wrap(
    quart, prefix="/kit", auth={"/": PUBLIC, "/whoami": ("projects:read",)}, route_of=route_of(quart)
)
