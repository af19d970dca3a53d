"""Names of the ASGI scope keys by which the parts of the kit, and the host's framework, pass on what they know.

The keys of the ASGI specification itself (``type``, ``path``, ``headers`` …) are written as they are.
"""

from typing import Final

# Set by the kit.
PATH: Final = "projkit.path"  # the request's path below the kit's mount
ROUTE: Final = "projkit.route"  # the template of the kit's route that matched, below the prefix of its mount
REQUEST_ID: Final = "projkit.request_id"
TRACE: Final = "projkit.trace"  # the RequestTrace, or None where the request is not traced
ERROR_TYPE: Final = "projkit.error_type"  # the class name of an unexpected exception
HOST_EXCHANGE: Final = "projkit.host_exchange"  # the exchange of the middleware that times the host
HOST_APP: Final = "projkit.host_app"  # the host's application, before any mount replaced it in "app"
AUTH_RESULT: Final = "projkit.auth_result"  # the principal, or the error, of a host's request
RESPONSE_HEADERS: Final = "projkit.response_headers"  # which authentication adds to a host's response
HAS_NO_LIFESPAN: Final = "projkit.has_no_lifespan"  # over WSGI: nothing could have started the kit
IN_PROCESS_CALLER: Final = "projkit.in_process_caller"  # the principal of a request by the kit itself
CLIENT_ADDRESS: Final = "projkit.client_address"  # of the client, where log lines are to contain it

# Set by frameworks, and by the kit in the same way.
APP: Final = "app"  # the application whose routes are searched: Starlette, FastAPI
MATCHED_ROUTE: Final = "route"  # the route object that matched: Starlette, FastAPI
FASTAPI_TELEMETRY: Final = "fastapi.telemetry"
