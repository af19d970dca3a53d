"""A wrapped host whose lifespan ends in the way that the environment variable ``ENDS`` names."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from projkit import ProjKit


class LoggingKit(ProjKit):
    """A kit that says when it has stopped."""

    async def shutdown(self) -> None:
        """Stop the kit."""
        await super().shutdown()
        sys.stderr.write("kit stopped\n")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Run a task of the host."""
    task = asyncio.create_task(asyncio.sleep(3600))
    yield
    task.cancel()
    if os.environ["ENDS"] == "cancelled":
        await task
    if os.environ["ENDS"] == "failed":
        raise ValueError("the host cannot stop")


app = LoggingKit().wrap(Starlette(lifespan=lifespan), prefix="/kit")
