"""The request that ``projkit check`` sends to PUBLIC_URL, and the kit's report on how it arrived.

The request carries a signed time instead of credentials. Only an instance with the same keys accepts it, so that the
report comes from the kit that is being checked; it says nothing but how this request was forwarded.
"""

import time
from collections.abc import Callable
from typing import Final

from pydantic import BaseModel

from projkit.auth.cookies import Cookies
from projkit.errors import NotFoundError
from projkit.http.client import ClientAddresses, peer_of
from projkit.http.request import Request
from projkit.http.response import PRIVATE, Response, json_response
from projkit.http.routing import Endpoint, ResponseSpec
from projkit.signing import Signer, SigningKeys

LABEL: Final = "public-url-check"
HEADER: Final = "X-Projkit-Check"
PATH: Final = "/monitoring/validate/request"
_VALID_SECONDS: Final = 60  # includes the difference of two machines' clocks
_TIME_BYTES: Final = 8
_FORWARDED: Final = (b"x-forwarded-for", b"x-forwarded-proto", b"forwarded")


class RequestReport(BaseModel):
    """How a request arrived at the kit.

    Attributes:
        root_path: the path that URLs and paths of cookies begin with.
        scheme: the scheme of the connection to this server.
        secure: whether the client uses HTTPS, as far as the kit knows.
        peer: the address of the connection.
        trusted: whether the peer is a trusted proxy.
        forwarded: the headers that a proxy added, by lower-case name.
        secure_cookies: whether cookies would be ``Secure``.
    """

    root_path: str
    scheme: str
    secure: bool
    peer: str
    trusted: bool
    forwarded: dict[str, str]
    secure_cookies: bool


def issue(keys: SigningKeys) -> str:
    """Return the value of the header of a request that is sent now."""
    return Signer(keys).sign(int(time.time()).to_bytes(_TIME_BYTES, "big"))


def endpoints(
    prefix: str, keys: Callable[[str], tuple[bytes, ...]], cookies: Cookies, addresses: ClientAddresses
) -> list[Endpoint]:
    """Declare ``/monitoring/validate/request``, which exists only for requests that :func:`issue` has signed.

    Args:
        prefix: the prefix of the API.
        keys: returns the secrets of a label, on the running event loop.
        cookies: the writer of cookies.
        addresses: determines the addresses of clients behind proxies.
    """
    signer = Signer(lambda: keys(LABEL))

    async def report(request: Request) -> Response:
        sent = signer.unsign(request.header(HEADER.lower().encode()) or "")
        if sent is None or abs(time.time() - int.from_bytes(sent, "big")) > _VALID_SECONDS:
            raise NotFoundError
        return json_response(200, _report(request, cookies, addresses).model_dump(), PRIVATE)

    return [
        Endpoint(
            method="GET",
            path=prefix + PATH,
            handler=report,
            operation_id="validateRequest",
            summary="Validate how a request was forwarded",
            description="For `projkit check`, which signs its requests; for any other request it does not exist.",
            tag="monitoring",
            responses={200: ResponseSpec("How the request arrived.", RequestReport)},
            errors=("not_found",),
            request_headers=(HEADER,),
            public=True,
            standalone=True,
            starts_kit=True,
        )
    ]


def _report(request: Request, cookies: Cookies, addresses: ClientAddresses) -> RequestReport:
    scope = request.scope
    return RequestReport(
        root_path=request.root_path,
        scheme=scope.get("scheme", ""),
        secure=addresses.is_secure(scope),
        peer=peer_of(scope),
        trusted=addresses.trusts_peer(scope),
        forwarded={
            name.decode(): request.header(name) or "" for name in _FORWARDED if name in request.headers
        },
        secure_cookies=cookies.is_secure(request),
    )
