"""Echo over grpc.aio in one process, needing nothing but grpcio, so that any version can be tried.

Run by `spotplane bench grpc-pin` with the interpreter of an environment that has the version.
Prints one JSON line: the version, unary calls and messages on streams per second.
"""

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio

CONCURRENCY = 32
PAYLOAD = b"x" * 300


class Echo(grpc.GenericRpcHandler):
    """Answers what it is sent, unary and as a stream."""

    def service(self, handler_call_details: Any) -> Any:
        """Find the method."""
        if handler_call_details.method == "/bench/Unary":
            return grpc.unary_unary_rpc_method_handler(self._unary)
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _unary(self, request: bytes, context: Any) -> bytes:
        return request

    async def _stream(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield request


async def unary(channel: Any, seconds: float) -> float:
    """Calls per second, closed loop."""
    call = channel.unary_unary("/bench/Unary")
    until, done = time.perf_counter() + seconds, 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call(PAYLOAD)
            done += 1

    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    return done / seconds


async def stream(channel: Any, seconds: float) -> float:
    """Messages there and back per second, on as many streams as there are callers."""
    until, done = time.perf_counter() + seconds, 0

    async def caller() -> None:
        nonlocal done
        call = channel.stream_stream("/bench/Stream")()
        while time.perf_counter() < until:
            await call.write(PAYLOAD)
            await call.read()
            done += 1
        await call.done_writing()

    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    return done / seconds


async def main(seconds: float) -> None:
    """Measure and print."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await unary(channel, 0.5)
        found = {
            "grpcio": grpc.__version__,
            "unary": await unary(channel, seconds),
            "stream": await stream(channel, seconds),
        }
    await server.stop(0)
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
