"""Limits that the edge enforces before a request reaches a server or a bridge."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import aiohttp
import grpc
import pytest
import pytest_asyncio
from grpc import aio
from spotplane_bridge import body_limits
from spotplane_bridge.addresses import Address
from spotplane_bridge.edge.config import EdgeConfig
from spotplane_bridge.edge.process import Envoy, start_envoy

from tests.envoy.conftest import ANY_PORT, Edge
from tests.envoy.stack import Backend, grpc_server, http_server
from tests.support.eventually import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS = 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Envoy]:
    """An edge with short timeouts, few connections per address, and nothing exposed."""
    directory = tmp_path_factory.mktemp("strict")
    async with grpc_server(Backend()) as grpc_port, http_server() as http_port:
        config = EdgeConfig(
            listen=ANY_PORT,
            admin=ANY_PORT,
            grpc_upstreams=(Address("127.0.0.1", grpc_port),),
            bridge_upstreams=(Address("127.0.0.1", http_port),),
            max_connections_per_address=CONNECTIONS,
            body_timeout_seconds=1,
            unary_timeout_seconds=1,
        )
        envoy = await start_envoy(config, directory, directory / "log", concurrency=1)
        try:
            yield envoy
        finally:
            await envoy.stop()


async def exchange(target: Address, request: bytes) -> bytes:
    """Send the beginning of a request and return the beginning of its response."""
    reader, writer = await asyncio.open_connection(*target)
    writer.write(request)
    answer = await reader.read(4096)
    writer.close()
    return answer


def head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_announced_body_that_is_too_large_is_rejected_before_it_is_sent(
    strict: Envoy,
) -> None:
    too_long = head("/admin/tenants", f"content-length: {body_limits.SMALL_BYTES + 1}")
    answer = await exchange(strict.listen, too_long)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"PAYLOAD_TOO_LARGE" in answer


async def test_chunked_body_that_is_too_large_is_rejected(strict: Envoy) -> None:
    size = body_limits.SMALL_BYTES + 1
    body = b"%x\r\n%s\r\n" % (size, b" " * size)
    answer = await exchange(
        strict.listen, head("/admin/tenants", "transfer-encoding: chunked") + body
    )

    assert answer.startswith(b"HTTP/1.1 413")


async def test_large_usage_batches_are_left_to_the_bridge(edge: Edge) -> None:
    """It verifies the credential before it reads them; the transcoder would hold them whole."""
    large = b" " * body_limits.SMALL_BYTES + b"{}"
    small = await edge.call("POST", "/v1/usage/records", json={"records": []})
    whole = await edge.call("POST", "/v1/usage/records", data=large)

    assert "path" not in small.json
    assert whole.json["path"] == "/v1/usage/records"


async def test_body_that_trickles_in_is_ended(strict: Envoy) -> None:
    reader, writer = await asyncio.open_connection(*strict.listen)
    writer.write(head("/admin/tenants", "content-length: 1000"))

    async def trickle() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.2)

    task = asyncio.create_task(trickle())
    answer = await reader.read(4096)
    task.cancel()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(("size", "status"), [(30_000, 200), (40_000, 431)])
async def test_headers_pass_or_are_431(edge: Edge, size: int, status: int) -> None:
    answer = await edge.call("GET", "/admin/tenants/t1", headers={"x-large": "x" * size})

    assert answer.status == status


@contextmanager
def connections(target: Address, source: str, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(socket.socket()))
            found[-1].bind((source, 0))
            found[-1].connect(target)
            found[-1].setblocking(False)
        yield found


def closed(sockets: list[socket.socket]) -> int:
    """Return the number of connections that the edge closed; none of them has sent a request."""

    def ended(connection: socket.socket) -> bool:
        try:
            return connection.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    return sum(ended(connection) for connection in sockets)


def served(connection: socket.socket) -> bool:
    """Return whether a request on it gets a response; the edge itself serves this one."""
    connection.setblocking(True)
    connection.settimeout(5)
    try:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        return connection.recv(12) == b"HTTP/1.1 404"
    except ConnectionError:
        return False


async def test_connections_of_one_address_leave_room_for_others(strict: Envoy) -> None:
    others = [f"127.0.0.{number}" for number in range(3, 15)]
    with connections(strict.listen, "127.0.0.2", CONNECTIONS + 5) as greedy:
        await eventually(lambda: closed(greedy) == 5)
        with ExitStack() as stack:
            each = [stack.enter_context(connections(strict.listen, one, 1)) for one in others]
            count = sum(served(one) for (one,) in each)

    # Those whose hash falls into the same one of eight groups are not served.
    assert count > len(others) // 2


@pytest.mark.parametrize(
    "path", ["/metrics", "/openapi.json", "/api/v1/admin/openapi.yaml", "/api-docs"]
)
async def test_operators_paths_are_public_only_when_configured(
    strict: Envoy, edge: Edge, path: str
) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"http://{strict.listen}{path}") as hidden:
        assert hidden.status == 404
        assert (await hidden.json())["error"]["code"] == "ROUTE_NOT_FOUND"
    assert (await edge.call("GET", path)).json["path"] == path


async def test_reflection_is_public_only_when_configured(strict: Envoy, edge: Edge) -> None:
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

    async def reflect(channel: aio.Channel) -> aio.AioRpcError:
        call: aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(method)()
        await call.done_writing()
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
        return caught.value

    async with aio.insecure_channel(str(strict.listen)) as channel:
        hidden = await reflect(channel)
    reached = await reflect(edge.channel)

    # The backend of these tests has no reflection either, and reports so in its own error.
    assert hidden.code() is reached.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reached.details() == "Method not found!"
    assert hidden.details() != reached.details()
