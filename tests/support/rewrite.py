"""A proxy before PostgreSQL that changes bytes under way, for answers that no setting produces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from spotplane_bench.chaos import postgres_upstream

Rewrite = Callable[[bytes], bytes]


def unchanged(data: bytes) -> bytes:
    """Leave bytes as they are."""
    return data


@asynccontextmanager
async def rewritten(
    url: str, *, to_server: Rewrite = unchanged, to_client: Rewrite = unchanged
) -> AsyncIterator[str]:
    """A URL of the same database, behind a proxy; lengths must stay the same."""
    upstream = postgres_upstream(url)
    assert isinstance(upstream, str)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_unix_connection(upstream)
        with suppress(ConnectionError):
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(reader, their_writer, to_server))
                group.create_task(copy(their_reader, writer, to_client))

    async def copy(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rewrite: Rewrite
    ) -> None:
        while data := await reader.read(65536):
            writer.write(rewrite(data))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    name = url.partition("?")[0].rpartition("/")[2]
    yield f"postgresql://postgres@127.0.0.1:{port}/{name}"
    server.close()
