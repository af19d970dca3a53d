"""A TCP proxy that delays, blocks and resets connections."""

import asyncio
from contextlib import suppress
from typing import Self


class Proxy:
    """A proxy in front of a server.

    Attributes:
        upstream: the port of the server, which can change, as the address of a name does.
        delay: the seconds by which each piece of data is delayed.
        silent: whether all data is held back.
        connections: the number of connections so far.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.delay = 0.0
        self.silent = False
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Reset all connections on both sides."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            upstream, onward = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, onward}
        for source, sink in ((reader, onward), (upstream, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await asyncio.sleep(self.delay)
                while self.silent and not sink.is_closing():
                    await asyncio.sleep(0.01)
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
        self._writers.discard(sink)
