"""Large bodies: permitted callers, time limits and memory limits."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
from aiohttp import ClientError, ClientSession, web
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2
from spotplane_bridge.app import running
from spotplane_bridge.body_memory import MemoryBudget
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.credential_check import CallerVerifier
from spotplane_bridge.errors import Failure
from spotplane_bridge.request_bodies import INLINE_VALUES, MAX_VALUES, Bodies
from spotplane_bridge.upstream import Upstream

from tests.bridge.fake_plane import FakePlane
from tests.legacy.raw import connect, head, send
from tests.support.eventually import eventually

BATCH = "/v1/usage/records"
REPORT = "/api/agents/a/pricing-report"
UPLOAD = "/api/admin/ml-models/upload"
LARGE = b'{"records":[]}' + b" " * 100_000
METADATA = (("authorization", "Bearer key"), ("x-forwarded-for", "1.2.3.4"))


async def post(http: ClientSession, body: bytes, token: str = "key", path: str = BATCH) -> int:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    async with http.post(path, data=body, headers=headers) as response:
        return response.status


async def test_a_credential_is_verified_once_in_a_while(
    http: ClientSession, plane: FakePlane
) -> None:
    assert [await post(http, LARGE) for _ in range(3)] == [200] * 3
    assert plane.verified == 1
    assert await post(http, LARGE, "another") == 200
    assert plane.verified == 2


async def test_small_bodies_need_no_verification(http: ClientSession, plane: FakePlane) -> None:
    assert await post(http, b'{"records":[{}]}', "suspended") == 200
    assert plane.verified == 0


async def test_a_refusal_is_not_remembered(http: ClientSession, plane: FakePlane) -> None:
    assert [await post(http, LARGE, "suspended") for _ in range(2)] == [403] * 2
    assert (plane.verified, len(plane.calls)) == (2, 0)


async def test_rights_are_decided_by_the_call_itself(http: ClientSession, plane: FakePlane) -> None:
    """The caller is known, and may not call the RPC that verifies it."""
    assert await post(http, LARGE, "other-role") == 200
    assert len(plane.calls) == 1


async def test_many_values_in_few_bytes_need_verification(
    http: ClientSession, plane: FakePlane
) -> None:
    body = b'{"records":[%b{}]}' % (b"{}," * INLINE_VALUES)
    assert len(body) < 64 * 1024
    assert await post(http, body, "suspended") == 403
    assert (plane.verified, len(plane.calls)) == (1, 0)


async def test_a_client_that_expects_100_continue_gets_it(http: ClientSession) -> None:
    waiting = head("POST", BATCH, Expect="100-continue", Content_Length=len(LARGE))
    assert (await send(http, waiting)).status == 100
    too_large = head("POST", BATCH, Expect="100-continue", Content_Length=2_000_000)
    assert (await send(http, too_large)).status == 413


async def test_a_slow_body_is_not_waited_for(plane: FakePlane, config: BridgeConfig) -> None:
    async with (
        running(replace(config, body_timeout_s=0.05)) as port,
        ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        for size in (10, len(LARGE)):
            response = await send(http, head("POST", BATCH, Content_Length=size) + b"{")
            assert (response.status, response.code) == (408, "DEADLINE_EXCEEDED")
            assert response.headers["connection"] == "close"


async def test_a_body_holds_its_memory_until_the_response(
    plane: FakePlane, config: BridgeConfig
) -> None:
    """Half-sent bodies of one caller leave memory for others, and return theirs at their end."""
    small = replace(config, body_memory_mib=4)
    async with (
        running(small) as port,
        ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        begun = head("POST", BATCH, Content_Length=900_000, Authorization="Bearer slow")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        await eventually(lambda: plane.verified == 1)
        assert await post(http, LARGE + b" " * 800_000, "fast") == 200
        waiting = asyncio.create_task(post(http, LARGE + b" " * 800_000, "slow"))
        await eventually(lambda: plane.verified == 2)
        assert not waiting.done()
        writer.close()
        assert await waiting == 200


async def test_no_request_outlives_its_response(http: ClientSession, plane: FakePlane) -> None:
    """Without the garbage collector, which may run minutes later."""
    gc.collect()
    gc.disable()
    try:
        for size in (60_000, 900_000):
            _, writer = await connect(http)
            writer.write(head("POST", BATCH, Content_Length=size + 10) + b" " * size)
            await eventually(lambda: bool(open_requests()))
            writer.close()
            await eventually(lambda: not open_requests())
        assert await post(http, b"x" * 900_000) == 400
        assert await post(http, LARGE, "suspended") == 403
        assert await post(http, LARGE) == 200
        assert await post(http, LARGE, path=REPORT) == 501
        assert await post(http, LARGE, path=UPLOAD) == 413
        # A connection that is kept alive has its last request, without the body.
        await http.close()
        await eventually(lambda: not open_requests())
    finally:
        gc.enable()


def open_requests() -> list[web.Request]:
    return [found for found in gc.get_objects() if isinstance(found, web.Request)]


async def test_connections_are_limited(plane: FakePlane, config: BridgeConfig) -> None:
    async with running(replace(config, max_connections=2)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        assert await held[2][0].read() == b""
        held[0][1].close()

        async def answered() -> bool:
            async with ClientSession(f"http://127.0.0.1:{port}") as http:
                with suppress(ClientError):
                    async with http.get("/health") as response:
                        return response.status == 200
            return False

        assert await eventually(answered)
        for _, writer in held:
            writer.close()


async def test_memory_is_shared_out_in_order() -> None:
    memory = MemoryBudget(400)
    with pytest.raises(Failure, match="PAYLOAD_TOO_LARGE"):
        await memory.reserve(b"a", 101)
    release = [await memory.reserve(caller, 100) for caller in (b"a", b"b", b"c", b"d")]
    waiting = [asyncio.create_task(memory.reserve(caller, 50)) for caller in (b"e", b"f")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    release[0]()
    (await waiting[1])()
    for free in release[1:]:
        free()
    (await memory.reserve(b"a", 100))()


async def test_a_large_body_is_converted_beside_the_event_loop(plane: FakePlane) -> None:
    """The conversion waits for the loop: it could never end if it held the loop."""
    upstream = Upstream(plane.target)
    bodies = Bodies(CallerVerifier(upstream), 10**7, 4 * 10**7, 30.0)
    started, released = threading.Event(), threading.Event()
    message = usage_pb2.IngestUsageBatchRequest(records=[usage_pb2.UsageRecord(request_id="1")])

    def convert() -> Message:
        started.set()
        assert released.wait(10)
        return message

    body = b"," * (INLINE_VALUES + 1)
    converted = asyncio.create_task(bodies.convert(body, convert, lambda: METADATA))
    await eventually(started.is_set)
    released.set()
    assert await converted == message.SerializeToString()
    with pytest.raises(Failure, match="PAYLOAD_TOO_LARGE"):
        await bodies.convert(b"," * MAX_VALUES, convert, lambda: METADATA)
    bodies.close()
    await upstream.close()


async def test_callers_take_turns(plane: FakePlane) -> None:
    """A caller with many large bodies delays the body of another by one conversion."""
    upstream = Upstream(plane.target)
    verifier = CallerVerifier(upstream)
    await verifier.verify((("authorization", "modest"),))
    bodies = Bodies(verifier, 10**7, 4 * 10**7, 30.0)
    started, released = threading.Event(), threading.Event()
    order: list[str] = []

    def conversion(name: str) -> asyncio.Task[Message | bytes]:
        def convert() -> Message:
            started.set()
            assert released.wait(10)
            order.append(name)
            return usage_pb2.IngestUsageBatchRequest()

        metadata = (("authorization", name),)
        return asyncio.create_task(bodies.convert(b"," * 1000, convert, lambda: metadata))

    tasks = [conversion("greedy") for _ in range(5)]
    await eventually(started.is_set)
    tasks.append(conversion("modest"))
    # Its credential is verified already, so that it is in the queue after one step.
    await asyncio.sleep(0)
    released.set()
    await asyncio.gather(*tasks)
    assert order.index("modest") <= 2
    bodies.close()
    await upstream.close()
