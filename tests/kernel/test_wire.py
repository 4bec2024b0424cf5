"""Free JSON and instants in requests, and flat printing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import api_key_pb2, pagination_pb2, tenant_pb2
from spotplane_server.kernel.api import http_body, wire
from spotplane_server.kernel.errors import Invalid


def test_free_json_comes_through_as_it_was() -> None:
    """Whole numbers as integers, nulls and nesting kept."""
    value = {"a": 1, "b": 1.5, "c": [None, True, {"d": "x"}], "e": -0.25}

    found = wire.from_struct(wire.struct(value))

    assert found == value
    assert isinstance(found["a"], int)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "a\x00b", {"k\x00": 1}])
def test_free_json_that_cannot_be_stored_is_the_callers_fault(value: object) -> None:
    """Not an internal error."""
    with pytest.raises(Invalid):
        wire.from_struct(wire.struct({"a": [value]}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-31",
        "2026-01-31T00:00:00",
        "9999-12-31T23:59:59-01:00",
        "2026-13-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
        "0001-01-01T00:00:00Z",
    ],
)
def test_an_instant_needs_a_date_a_time_and_a_zone(text: str) -> None:
    """And must exist in UTC; the database takes its first and last moment for infinities."""
    with pytest.raises(Invalid) as caught:
        wire.instant(text, "at")
    assert caught.value.reason == "INVALID_DATE"


def test_an_instant_is_turned_to_utc() -> None:
    """Whatever its zone."""
    assert wire.instant("2026-01-31T01:30:00+01:30", "at") == datetime(2026, 1, 31, tzinfo=UTC)


def test_flat_json_has_every_field_under_its_proto_name() -> None:
    """64-bit integers are numbers, absent optionals null, instants RFC 3339 with Z."""
    tenant = tenant_pb2.Tenant(id="t", total_spend_nanos=2**53 + 1, metadata=wire.struct({"n": 1}))
    tenant.created_at.FromSeconds(0)

    printed = http_body.to_json(tenant)

    assert set(printed) == {field.name for field in tenant.DESCRIPTOR.fields}
    assert printed["total_spend_nanos"] == 2**53 + 1
    assert printed["created_at"] == "1970-01-01T00:00:00Z"
    assert printed["metadata"] == {"n": 1}
    assert (
        printed["suspension_reason"]
        is printed["deleted_at"]
        is printed["region_preferences"]
        is None
    )


def test_flat_json_prints_lists_even_when_empty() -> None:
    """Never as null."""
    answer = api_key_pb2.ListApiKeysResponse(pagination=pagination_pb2.Pagination(total=3))

    assert http_body.to_json(answer) == {
        "data": [],
        "pagination": {
            "total": 3,
            "limit": 0,
            "offset": 0,
            "has_more": False,
            "next_page_token": "",
        },
    }


@pytest.mark.parametrize("seconds", [-62_135_596_801, -62_135_596_800, 253_402_300_799])
def test_times_of_messages_lie_within_the_calendar(seconds: int) -> None:
    """Its first and last moment would be stored as infinities."""
    with pytest.raises(Invalid) as caught:
        wire.from_timestamp(Timestamp(seconds=seconds, nanos=999_999_999 * (seconds > 0)))
    assert caught.value.reason == "OUT_OF_RANGE"
