"""A TCP proxy on 127.0.0.1 that delays each response: ``delay_proxy.py PORT MILLISECONDS``.

It prints the port that it listens on.
"""

import asyncio
import sys
from contextlib import suppress


async def main(upstream: int, seconds: float) -> None:
    """Serve until the process is terminated."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(pump(reader, upstream_writer, 0.0), pump(upstream_reader, writer, seconds))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float) -> None:
    """Copy data, each piece after a delay, until either side closes."""
    with suppress(OSError):
        while data := await source.read(65_536):
            await asyncio.sleep(seconds)
            sink.write(data)
            await sink.drain()
    sink.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1000))
