"""A host application with a handler that blocks the event loop."""

import os
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from projkit import ProjKit

kit = ProjKit()


async def block(request: Request) -> PlainTextResponse:
    """Block the event loop, as a synchronous client does."""
    time.sleep(float(request.query_params["seconds"]))
    return PlainTextResponse("done")


async def pid(_: Request) -> PlainTextResponse:
    """Return the process id."""
    return PlainTextResponse(str(os.getpid()))


app = Starlette(routes=[Route("/block", block), Route("/pid", pid), Mount("/", kit)], lifespan=kit.lifespan)
