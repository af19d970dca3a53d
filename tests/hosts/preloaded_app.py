"""A host that is loaded, or even started (``PRELOAD=started``), before the server forks its workers."""

import asyncio
import os
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from projkit import ProjKit


async def host(scope: Any, receive: Any, send: Any) -> None:
    """Respond with the id of the process."""
    if scope["type"] != "http":
        raise NotImplementedError
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


kit = ProjKit(tracer_provider=TracerProvider())
if os.environ["PRELOAD"] == "started":
    asyncio.run(kit.startup())
app = kit.wrap(host)
