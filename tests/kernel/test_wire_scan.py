"""The estimate of a message's memory: an upper bound, and malformed bytes are recognized."""

from __future__ import annotations

import pytest
from google.protobuf import struct_pb2
from spotplane.v1 import agent_pb2, budget_pb2, usage_pb2
from spotplane_server.kernel.rpc import wire_scan

RECORDS = wire_scan.shape_of(usage_pb2.IngestUsageBatchRequest.DESCRIPTOR)
MIB = 1024 * 1024
# Cheap, and long enough that the size alone does not answer.
LONG = b"\x7a\xff\x7f" + b"x" * 16_383


def check(data: bytes, shape: wire_scan.Shape = RECORDS, limit: int = MIB) -> int:
    """Check a message; how often other work got its turn."""
    return sum(1 for _ in wire_scan.check(data, shape, limit))


def deep(levels: int) -> bytes:
    """Lists within lists, as bytes."""
    value = struct_pb2.Value(number_value=1).SerializeToString()
    for _ in range(levels):
        items = b"\x0a" + _length(value) + value
        value = b"\x32" + _length(items) + items
    return value


def _length(data: bytes) -> bytes:
    low, high = len(data) & 127, len(data) >> 7
    return bytes([low | 128, high]) if high else bytes([low])


def test_many_members_of_two_bytes_are_too_large() -> None:
    with pytest.raises(wire_scan.TooLarge) as error:
        check(b"\x0a\x00" * 10_000)
    assert error.value.path == "records"


def test_the_path_of_nested_elements_is_named() -> None:
    record = usage_pb2.UsageRecord()
    record.metadata.get_or_create_list("x").extend([None] * 30_000)
    batch = usage_pb2.IngestUsageBatchRequest(records=[record])
    with pytest.raises(wire_scan.TooLarge) as error:
        check(batch.SerializeToString())
    assert error.value.path.startswith("records.metadata.fields.value.list_value.values")


def test_a_few_members_with_long_texts_are_not() -> None:
    record = usage_pb2.UsageRecord(request_id="x" * 500_000)
    check(usage_pb2.IngestUsageBatchRequest(records=[record] * 4).SerializeToString())


@pytest.mark.parametrize(
    "field",
    [b"\x10\x00", b"\x78\x00", b"\x7b\x7c", b"\x7a\x00", b"\x7d\0\0\0\0", b"\x79\0\0\0\0\0\0\0\0"],
    ids=["number", "unknown number", "unknown group", "unknown bytes", "32 bits", "64 bits"],
)
def test_fields_that_take_no_memory_are_bounded_too(field: bytes) -> None:
    check(field * 10_000)
    with pytest.raises(wire_scan.TooLarge):
        check(field * 100_000)


def test_packed_numbers_count_one_by_one() -> None:
    shape = wire_scan.shape_of(budget_pb2.CreateBudgetRequest.DESCRIPTOR)
    request = budget_pb2.CreateBudgetRequest(alert_thresholds_pct=[1] * 100_000)
    with pytest.raises(wire_scan.TooLarge) as error:
        check(request.SerializeToString(), shape)
    assert error.value.path == "alert_thresholds_pct"


def test_other_work_gets_its_turn() -> None:
    assert check(b"\x10\x00" * 100_000, limit=4 * MIB) > 10


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x7f",
        b"\x0a\x02\x0a\x05",
        b"\x07\x00",
        b"\x0c",
        b"\x0b\x14",
        b"\x0b",
        b"\x80" * 11,
        b"\x09\x00",
    ],
    ids=[
        "no length", "too short", "nested too short", "wire type", "end without group",
        "another group's end", "open group", "long varint", "fixed too short",
    ],
)  # fmt: skip
def test_bytes_that_are_no_message_are_malformed(data: bytes) -> None:
    with pytest.raises(wire_scan.Malformed):
        check(LONG + data, limit=360)


@pytest.mark.parametrize("data", [b"\x0b" * 200, deep(60)], ids=["groups", "lists"])
def test_depth_is_bounded(data: bytes) -> None:
    shape = wire_scan.shape_of(struct_pb2.Value.DESCRIPTOR)
    with pytest.raises(wire_scan.Malformed):
        check(LONG + data, shape, limit=9_000)


def test_types_that_contain_themselves_have_one_shape() -> None:
    shape = wire_scan.shape_of(agent_pb2.IssueCommandRequest.DESCRIPTOR)
    assert shape.ratio == wire_scan.shape_of(struct_pb2.Struct.DESCRIPTOR).ratio
