"""Requests are read after the call was admitted, and within the limits of their method."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from spotplane.v1 import (
    agent_pb2,
    agent_stream_pb2,
    decision_pb2,
    market_pb2,
    tenant_pb2,
    usage_pb2,
)
from spotplane_server.kernel.auth import policy
from spotplane_server.kernel.rpc import message_limits, wire_scan

from tests.invariants import rpcs
from tests.support.plane import ADMIN, Metadata, Plane, Refusal, refusal

UNARY: Final = "/spotplane.v1.UsageService/IngestUsageBatch"
SHAPES: Final = {
    UNARY: (False, False),
    "/spotplane.v1.UsageService/IngestUsage": (True, False),
    "/spotplane.v1.EventService/WatchEvents": (False, True),
    "/spotplane.v1.AgentService/Connect": (True, True),
}
BOMB: Final = b"\x0a\x00" * (5 * 1024 * 1024)


async def send(
    plane: Plane, method: str, *messages: bytes, metadata: Metadata = ()
) -> Refusal | None:
    """Call a method with bytes; None when it succeeds."""
    streams_in, streams_out = SHAPES.get(method, (False, False))

    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
    call = getattr(plane.channel, kind)(method)(
        requests() if streams_in else messages[0], metadata=metadata
    )
    try:
        if streams_out:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as err:
        return refusal(err)
    return None


def peak_mib() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize("method", SHAPES)
async def test_a_message_without_a_credential_is_not_parsed(plane: Plane, method: str) -> None:
    before = peak_mib()

    found = await send(plane, method, BOMB)

    # A client with a stream of requests may lose the status when its write fails.
    assert found is not None
    assert found.reason in ("API_KEY_MISSING", "")
    # Bytes of the client's own: the message and what gRPC copies of it.
    assert peak_mib() - before < 100


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x00" * 100_000], ids=["garbage", "large"])
async def test_credentials_rights_and_budgets_are_checked_before_the_message(
    plane: Plane, data: bytes
) -> None:
    tenant = await plane.tenant()
    reader = await plane.key(tenant.id, role="read_only")
    limited = await plane.key(tenant.id, role="agent", rate_limit_rpm=1)
    agent: Metadata = (("authorization", f"Bearer {limited.key}"),)
    await send(plane, UNARY, b"", metadata=agent)

    for metadata, reason in (
        ((), "API_KEY_MISSING"),
        ((("authorization", f"Bearer {reader.key}"),), "ROLE_FORBIDDEN"),
        (agent, "RATE_LIMIT_REQUESTS"),
    ):
        found = await send(plane, UNARY, data, metadata=metadata)
        assert found is not None
        assert found.reason == reason


@pytest.mark.parametrize("method", SHAPES)
async def test_a_message_with_too_many_elements_is_refused(plane: Plane, method: str) -> None:
    tenant = await plane.tenant()
    bomb = b"\x0a\x00" * 300_000
    if method.endswith("Connect"):
        usage = _nested(agent_stream_pb2.Report, "usage", bomb)
        bomb = _nested(agent_stream_pb2.ConnectRequest, "report", usage)

    found = await send(plane, method, bomb, metadata=tenant.metadata)

    assert found is not None
    assert (found.reason, found.http_status) == ("PAYLOAD_TOO_LARGE", 413)
    assert int(found.metadata["limit_bytes"]) > 0


async def test_a_compressed_message_is_not_unpacked(plane: Plane) -> None:
    call: Any = plane.channel.unary_unary(UNARY)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(bytes(64 * 1024), metadata=ADMIN, compression=grpc.Compression.Gzip)

    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_the_field_with_too_many_elements_is_named(plane: Plane) -> None:
    found = await send(plane, UNARY, BOMB[: 2 * 300_000], metadata=ADMIN)

    assert found is not None
    assert found.fields == ["records"]


async def test_every_message_of_a_stream_is_held_to_the_limits(plane: Plane) -> None:
    first = usage_pb2.IngestUsageRequest().SerializeToString()

    found = await send(plane, "/spotplane.v1.UsageService/IngestUsage", first, BOMB, metadata=ADMIN)

    assert found is not None
    assert found.reason == "PAYLOAD_TOO_LARGE"


async def test_other_calls_are_served_while_a_large_message_is_checked(plane: Plane) -> None:
    large = asyncio.create_task(send(plane, UNARY, b"\x10\x00" * 300_000, metadata=ADMIN))
    served = 0
    while not large.done():
        await send(plane, "/grpc.health.v1.Health/Check", b"")
        served += 1

    assert served > 1


async def test_a_message_that_cannot_be_parsed_is_charged_to_the_fleets_budget(
    plane: Plane,
) -> None:
    tenant = await plane.tenant()
    stub: Any = plane.channel.unary_unary("/spotplane.v1.AgentService/Heartbeat")
    left = []
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub(b"\xff\xff", metadata=tenant.metadata)
        assert refusal(error.value).reason == "INVALID_MESSAGE"
        trailers: dict[str, Any] = dict(iter(error.value.trailing_metadata() or ()))
        left.append(int(trailers["x-ratelimit-remaining"]))

    assert left[0] - left[1] == 1


def test_every_listed_method_exists() -> None:
    assert set(message_limits.METHODS) <= set(policy.METHODS)


def test_a_limit_above_the_default_is_declared_and_no_method_is_above_the_largest_body() -> None:
    default = message_limits.DEFAULT
    assert (default.size, default.memory) == (64 * 1024, 4 * 1024 * 1024)
    for limit in message_limits.METHODS.values():
        assert default.size < limit.size <= 10 * 1024 * 1024
        assert default.memory <= limit.memory <= 32 * 1024 * 1024


def _nested(message: type[Message], field: str, data: bytes) -> bytes:
    number, length, head = message.DESCRIPTOR.fields_by_name[field].number, len(data), b""
    while length >= 128:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + head + bytes([length]) + data


def _json(size: int) -> struct_pb2.Struct:
    """What takes the most bytes on the wire of JSON of a size: numbers of one digit."""
    found = struct_pb2.Struct()
    found.get_or_create_list("x").extend([0] * (size // 2 - 4))
    return found


def _usage(count: int) -> list[usage_pb2.UsageRecord]:
    record = usage_pb2.UsageRecord(request_id="é" * 128)
    _fill(record, "é" * 255)
    record.metadata.update({f"member {number}": "x" * 20 for number in range(10)})
    return [record] * count


def _fill(message: Message, text: str) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if field.message_type.full_name == "google.protobuf.Timestamp":
                getattr(message, field.name).FromJsonString("2026-01-02T03:04:05.678901Z")
        elif field.is_repeated:
            continue
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, text)
        elif field.type != field.TYPE_BYTES:
            setattr(message, field.name, 1)


def _filled(message: Any, text: str) -> Any:
    _fill(message, text)
    return message


def _largest() -> dict[str, Message]:
    """Requests as large as the contracts allow."""
    spot = _filled(market_pb2.ReportPricesRequest.SpotPrice(), "é" * 64)
    on_demand = _filled(market_pb2.ReportPricesRequest.OnDemandPrice(), "é" * 64)
    instance = _filled(agent_pb2.HeartbeatRequest.InventoryInstance(), "é" * 128)
    pool = _filled(decision_pb2.DecidePool(), "é" * 64)
    report = agent_stream_pb2.Report(usage=agent_stream_pb2.UsageReport(records=_usage(150)))
    decide = decision_pb2.DecideRequest()
    decide.pricing.spot_pools.extend([pool] * 256)
    return {
        "TenantService/CreateTenant": tenant_pb2.CreateTenantRequest(
            metadata=_json(16 * 1024), region_preferences=_json(16 * 1024)
        ),
        "AgentService/IssueCommand": agent_pb2.IssueCommandRequest(parameters=_json(64 * 1024)),
        "AgentService/CompleteCommand": agent_pb2.CompleteCommandRequest(result=_json(64 * 1024)),
        "AgentService/Heartbeat": agent_pb2.HeartbeatRequest(
            monitored_instances=["é" * 128] * 1000, inventory=[instance] * 1000
        ),
        "AgentService/Connect": agent_stream_pb2.ConnectRequest(report=report),
        "DecisionService/Decide": decide,
        "UsageService/IngestUsageBatch": usage_pb2.IngestUsageBatchRequest(records=_usage(1000)),
        "UsageService/IngestUsage": usage_pb2.IngestUsageRequest(records=_usage(1000)),
        "MarketService/ReportPrices": market_pb2.ReportPricesRequest(
            spot=[spot] * 1000, on_demand=[on_demand] * 1000
        ),
    }


@pytest.mark.parametrize("name", _largest())
def test_the_largest_request_of_a_contract_fits(name: str) -> None:
    request = _largest()[name]
    limit = message_limits.of(rpcs.ALL[name].path)
    data = request.SerializeToString()

    assert len(data) <= limit.size
    for _ in wire_scan.check(
        data, wire_scan.shape_of(rpcs.ALL[name].method.input_type), limit.memory
    ):
        pass
