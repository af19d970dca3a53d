"""A TCP proxy before a server on 127.0.0.1 that holds back each answer: ``slow.py PORT MILLISECONDS``.

Prints the port on which it listens.
"""

import asyncio
import sys
from contextlib import suppress


async def main(upstream: int, seconds: float) -> None:
    """Serves until it is ended."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(pump(reader, onward, 0.0), pump(there, writer, seconds))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float) -> None:
    """Everything, each piece so late, until either side closes."""
    with suppress(OSError):
        while data := await source.read(65_536):
            await asyncio.sleep(seconds)
            sink.write(data)
            await sink.drain()
    sink.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1000))
