"""A FastAPI host with the kit, in the arrangement that the environment variable ``LAYOUT`` names."""

import os
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from projkit import ProjKit


def mounted(kit: ProjKit, root_path: str = "") -> FastAPI:
    """Mount the kit at ``/kit``."""
    app = FastAPI(lifespan=kit.lifespan, root_path=root_path)
    app.mount("/kit", kit)
    return app


def nested(kit: ProjKit) -> FastAPI:
    """Mount the host in another one at ``/app``."""
    outer = FastAPI(lifespan=kit.lifespan)
    outer.mount("/app", mounted(kit))
    return outer


LAYOUTS: dict[str, Callable[[ProjKit], Any]] = {
    "mounted": mounted,
    "root path": lambda kit: mounted(kit, "/app"),
    "nested": nested,
    "wrapped": lambda kit: kit.wrap(FastAPI(), prefix="/kit"),
}


def create_app() -> Any:
    """Create the host."""
    return LAYOUTS[os.environ["LAYOUT"]](ProjKit())


app = create_app()
