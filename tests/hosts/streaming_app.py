"""A host with endless streams and WebSockets, in the layout that the environment variable ``LAYOUT`` selects."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from projkit import ProjKit, Settings
from projkit.monitoring.middleware import PerformanceMiddleware

running: list[str] = []


async def stream(request: Request) -> StreamingResponse:
    """Send without an end, after a time in which the kit polls for a disconnect."""

    async def parts() -> AsyncIterator[bytes]:
        running.append("stream")
        try:
            while True:
                yield b"x" * 100
                await asyncio.sleep(0.02)
        finally:
            running.remove("stream")

    await asyncio.sleep(0.1)
    return StreamingResponse(parts())


async def patient(request: Request) -> PlainTextResponse:
    """Send nothing until the client has disconnected."""
    running.append("patient")
    if (
        os.environ["LAYOUT"] == "inside"
    ):  # behind Starlette's BaseHTTPMiddleware is_disconnected never returns True
        while (await request.receive())["type"] != "http.disconnect":
            pass
        running.remove("patient")
        return PlainTextResponse("")
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    running.remove("patient")
    return PlainTextResponse("")


class Late:
    """Read the request only after the response has started, as a proxy does."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Respond with the messages."""
        await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        message = await receive()
        content = f"{message['type']} {message.get('body')!r} {message.get('more_body', False)}"
        await send({"type": "http.response.body", "body": content.encode()})


async def chat(socket: WebSocket) -> None:
    """Receive until the client leaves."""
    await socket.accept()
    running.append("chat")
    async for _ in socket.iter_text():
        pass
    running.remove("chat")


async def status(request: Request) -> JSONResponse:
    """Return what still runs."""
    return JSONResponse(running)


async def passes_on(request: Request, call_next: Any) -> Any:
    """Do nothing, in the way of ``@app.middleware("http")``."""
    return await call_next(request)


def create_app() -> ASGIApp:
    """Create the application that the environment selects."""
    routes = [
        Route("/stream", stream),
        Route("/patient", patient),
        Route("/late", Late(), methods=["POST"]),
        Route("/status", status),
        WebSocketRoute("/chat", chat),
    ]
    layout = os.environ["LAYOUT"]
    kit = ProjKit(Settings())
    observed = [Middleware(PerformanceMiddleware, kit=kit)]
    if layout == "middleware":
        return Starlette(routes=routes, middleware=observed, lifespan=kit.lifespan)
    if layout == "inside":
        around = [Middleware(BaseHTTPMiddleware, dispatch=passes_on)]
        return Starlette(routes=routes, middleware=[*around, *observed], lifespan=kit.lifespan)
    return kit.wrap(Starlette(routes=routes), prefix="/kit", instrument=True)


app = create_app()
