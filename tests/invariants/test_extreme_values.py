"""Extreme values in every field of every RPC are refused or taken; none is a defect, none hangs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from spotplane.v1 import agent_pb2_grpc, agent_stream_pb2
from spotplane_server.kernel.auth import policy

from tests.invariants import rpcs
from tests.invariants.test_foreign_tenant import Estate, estate
from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, Metadata, Plane, Refusal, Tenant
from tests.support.plane import refusal as refusal_of

F: Final = FieldDescriptor
# A message may contain itself.
DEEPEST: Final = 4
# Longer than every text may be, and than a message of most methods.
LONG: Final = "x" * 70_000
MANY: Final = 3_000
TIMEOUT_SECONDS: Final = 20.0
# Streams that go on until the caller ends them.
CONNECT: Final = "AgentService/Connect"
ENDLESS: Final = {"EventService/WatchEvents", "EventService/Subscribe"}
DEFECTS: Final = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
# What a limit answers says nothing about the value.
HELD_BACK: Final = {"RATE_LIMIT_EXCEEDED", "RATE_LIMIT_REQUESTS", "TENANT_LIMIT"}

NUMBERS: Final[dict[int, tuple[Any, ...]]] = {
    F.CPPTYPE_INT32: (-(2**31), -1, 2**31 - 1),
    F.CPPTYPE_UINT32: (2**32 - 1,),
    F.CPPTYPE_INT64: (-(2**63), -1, 2**63 - 1),
    F.CPPTYPE_UINT64: (2**64 - 1,),
    F.CPPTYPE_DOUBLE: (math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324),
    F.CPPTYPE_FLOAT: (math.nan, math.inf, -math.inf),
    F.CPPTYPE_BOOL: (),
    F.CPPTYPE_ENUM: (-1, 0, 2**31 - 1),
}
TEXTS: Final = (
    "",
    "a\0b",
    "\U0010ffff\u202e",
    LONG,
    "9" * 40,
    "00000000-0000-0000-0000-000000000000",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999-23:59",
)
BYTES: Final = (b"", b"\xff\xfe\0", b"\0" * 70_000)
# Seconds and nanoseconds of a timestamp or a duration: beyond the years 1 to 9999, at their ends,
# and fractions that protobuf does not allow.
SPANS: Final = (
    (-(2**63), 0),
    (2**63 - 1, 0),
    (-62_135_596_800, 0),
    (-62_135_596_801, 999_999_999),
    (253_402_300_799, 999_999_999),
    (253_402_300_800, 0),
    (0, -(2**31)),
    (0, 2**31 - 1),
    (-1, 1),
)


def extremes(field: FieldDescriptor, depth: int = 1) -> tuple[Any, ...]:
    """Extreme values of one element of a scalar field; deeper fields get fewer."""
    if field.type == F.TYPE_STRING:
        return TEXTS if depth == 1 else TEXTS[1:4]
    if field.type == F.TYPE_BYTES:
        return BYTES
    return NUMBERS[field.cpp_type] if depth == 1 else NUMBERS[field.cpp_type][:3]


def mutations(kind: Descriptor, depth: int = 1) -> Iterator[tuple[str, Message]]:
    """Messages with one extreme value each, and where it stands."""
    make = message_factory.GetMessageClass(kind)
    if kind.full_name in {"google.protobuf.Timestamp", "google.protobuf.Duration"}:
        for seconds, nanos in SPANS:
            yield f"{seconds} s {nanos} ns", make(seconds=seconds, nanos=nanos)
        return
    if kind.full_name == "google.protobuf.Struct":
        yield from structs()
        return
    if depth > DEEPEST:
        return
    for field in kind.fields:
        for where, value in values_of(field, depth):
            message = make()
            put(message, field, value)
            yield f"{field.name}: {where}", message
        if depth == 1 and field.is_repeated and not is_map(field):
            message = make()
            put(message, field, [neutral(field)] * MANY)
            yield f"{field.name}: {MANY} items", message


def values_of(field: FieldDescriptor, depth: int) -> Iterator[tuple[str, Any]]:
    if is_map(field):
        key, value = (field.message_type.fields_by_name[n] for n in ("key", "value"))
        for name in extremes(key):
            yield f"key {name!r:.20}", {name: neutral(value)}
        return
    if field.message_type is not None:
        found: Iterator[tuple[str, Any]] = mutations(field.message_type, depth + 1)
    else:
        found = ((f"{value!r:.40}", value) for value in extremes(field, depth))
    for where, value in found:
        yield where, [value] if field.is_repeated else value


def structs() -> Iterator[tuple[str, Message]]:
    """Objects that JSON or the database cannot have, or that are very deep or large."""
    make = message_factory.GetMessageClass(struct_pb2.Struct.DESCRIPTOR)
    for number in (math.nan, math.inf, 1e308):
        message: Any = make()
        message.fields["a"].number_value = number
        yield f"number {number}", message
    for name, text in (("a\0", "b"), ("a", "b\0"), ("", ""), ("a", LONG)):
        message = make()
        message.fields[name].string_value = text
        yield f"text {name!r} {text!r:.20}", message
    message = make()
    message.fields["a"].SetInParent()
    yield "a value of no kind", message
    message = make()
    deep = message
    for _ in range(30):
        deep = deep.fields["a"].struct_value
    deep.fields["a"].bool_value = True
    yield "30 levels", message


def is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def neutral(field: FieldDescriptor) -> Any:
    """An element of a field that says nothing."""
    if field.message_type is not None:
        return message_factory.GetMessageClass(field.message_type)()
    return {F.TYPE_STRING: "", F.TYPE_BYTES: b""}.get(field.type, 0)


def put(message: Message, field: FieldDescriptor, value: Any) -> None:
    if is_map(field):
        held = getattr(message, field.name)
        for key, item in value.items():
            if isinstance(item, Message):
                held[key].CopyFrom(item)
            else:
                held[key] = item
    elif field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)


async def answer(
    rpc: rpcs.Rpc, channel: grpc.aio.Channel, metadata: Metadata, hello: Any, request: Message
) -> str | None:
    """Call a method; what is wrong with the answer, None when it is a refusal or a success."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if rpc.name == CONNECT:
                return await connected(channel, metadata, hello, request)
            if rpc.name in ENDLESS:
                refusal = await rpcs.begin(rpc, channel, metadata, request)
            else:
                refusal = await rpc.send(channel, metadata, request)
    except TimeoutError:
        return "no answer"
    return judged(refusal)


async def connected(
    channel: grpc.aio.Channel, metadata: Metadata, hello: Any, request: Any
) -> str | None:
    """Send a message after `hello`; what is wrong with the end or the acknowledgement."""

    async def messages() -> AsyncIterator[Any]:
        if not request.HasField("hello"):
            yield agent_stream_pb2.ConnectRequest(hello=hello)
        if request.HasField("report"):
            request.report.seq = request.report.seq or 1
        yield request

    call = agent_pb2_grpc.AgentServiceStub(channel).Connect(messages(), metadata=metadata)
    try:
        async for response in call:
            code = response.report_ack.error.code
            if code in {status.value[0] for status in DEFECTS}:
                return f"acknowledged with {code}"
    except grpc.aio.AioRpcError as err:
        return judged(refusal_of(err))
    return None


def judged(refusal: Refusal | None) -> str | None:
    if refusal is None:
        return None
    assert refusal.reason not in HELD_BACK, refusal
    return f"{refusal.code.name} {refusal.reason}" if refusal.code in DEFECTS else None


class Caller:
    """Sends requests of one service, with whatever they name at hand."""

    def __init__(self, plane: Plane, clock: FakeClock, tenant: Tenant, owned: Estate) -> None:
        self.plane, self.clock, self.tenant, self.owned = plane, clock, tenant, owned

    async def defects(self, name: str) -> dict[str, str]:
        """What each extreme value leads to that is a defect, by the place of the value."""
        rpc = rpcs.ALL[name]
        metadata = self.tenant.metadata if policy.METHODS[rpc.path].roles else ADMIN
        found = {}
        for where, extreme in mutations(rpc.method.input_type):
            request = rpc.request(**rpcs.ARGUMENTS.get(name, {}) | self.owned.request(name))
            for field, _ in extreme.ListFields():
                request.ClearField(field.name)
            request.MergeFrom(extreme)
            # An agent's calls have a budget of ten per second.
            self.clock.advance(timedelta(milliseconds=100))
            hello = self.owned.owned["hello"]
            wrong = await answer(rpc, self.plane.channel, metadata, hello, request)
            if wrong is not None:
                found[f"{name} {where}"] = wrong
        return found


@pytest.mark.parametrize("service", sorted({name.partition("/")[0] for name in rpcs.ALL}))
async def test_no_extreme_value_is_a_defect(plane: Plane, clock: FakeClock, service: str) -> None:
    tenant = await plane.tenant()
    found: dict[str, str] = {}
    for name in rpcs.ALL:
        if name.startswith(f"{service}/"):
            caller = Caller(plane, clock, tenant, await estate(plane, tenant))
            found |= await caller.defects(name)
    assert found == {}
