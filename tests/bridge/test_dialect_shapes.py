"""Responses of declared routes: names, order, types, absent values."""

from __future__ import annotations

from typing import Any

import pytest
from spotplane.v1 import agent_stream_pb2, tenant_pb2
from spotplane_bridge.legacy.exports import cell, line
from spotplane_bridge.legacy.response_shapes import (
    Array,
    Either,
    Shape,
    ShapeError,
    const,
    date,
    default,
    dollars,
    each,
    made,
    mapped,
    nested,
    optional,
    usd,
)


def _print(shape: Any, message: Any) -> Any:
    return shape.compile(message.DESCRIPTOR).get(message)


def test_members_keep_their_order_and_are_always_there() -> None:
    shape = Shape(
        z="name",
        a="suspended_at",
        m=optional("email"),
        k=default("tier", "n/a"),
        ok=True,
        n=const(0),
        more=Shape(inner="status"),
    )
    reply = _print(shape, tenant_pb2.Tenant(name="Acme"))
    assert list(reply) == ["z", "a", "m", "k", "ok", "n", "more"]
    assert reply == {
        "z": "Acme",
        "a": None,
        "m": None,
        "k": "n/a",
        "ok": True,
        "n": 0,
        "more": {"inner": ""},
    }


def test_types_are_those_of_the_field() -> None:
    tenant = tenant_pb2.Tenant(status="active", total_spend_nanos=2**53)
    tenant.created_at.FromJsonString("2026-03-01T12:00:00.5Z")
    shape = Shape(
        at="created_at",
        day=date("created_at"),
        nanos="total_spend_nanos",
        spend=usd("total_spend_nanos"),
        state=mapped("status", {"active": "on"}, other="off"),
        label=made(lambda t: f"{t.status}!", type="string"),
    )
    assert _print(shape, tenant) == {
        "at": "2026-03-01T12:00:00.500Z",
        "day": "2026-03-01",
        "nanos": 2**53,
        "spend": 9007199.254741,
        "state": "on",
        "label": "active!",
    }


def test_lists_and_messages_have_shapes_of_their_own() -> None:
    """A bare array, a nested object, and null for one that is not there."""
    price = agent_stream_pb2.PriceReport.SpotPrice(
        instance_type="g5.xlarge", az="us-east-1a", price_nanousd_per_hour=300_000_000
    )
    report = agent_stream_pb2.PriceReport(region="us-east-1", spot=[price])
    item = Shape(az="az", price="price_nanousd_per_hour")
    assert _print(Array("spot", item), report) == [{"az": "us-east-1a", "price": 0.3}]
    assert _print(Shape(pools=each("spot", item)), report)["pools"][0]["price"] == 0.3
    message = agent_stream_pb2.Report()
    shape = Shape(prices=nested("prices", Shape(region="region")), region="prices.region")
    assert _print(shape, message) == {"prices": None, "region": None}
    message.prices.CopyFrom(report)
    assert _print(shape, message) == {"prices": {"region": "us-east-1"}, "region": "us-east-1"}


def test_one_of_two_shapes_by_what_was_answered() -> None:
    shape = Either(lambda t: bool(t.name), Shape(name="name"), Shape(id="id"))
    assert _print(shape, tenant_pb2.Tenant(name="A")) == {"name": "A"}
    assert _print(shape, tenant_pb2.Tenant(id="7")) == {"id": "7"}


def test_a_shape_that_does_not_fit_stops_the_start() -> None:
    with pytest.raises(ShapeError, match="nope"):
        Shape(a="nope").compile(tenant_pb2.Tenant.DESCRIPTOR)
    with pytest.raises(ShapeError, match="email"):
        Shape(a=nested("email", Shape())).compile(tenant_pb2.Tenant.DESCRIPTOR)


@pytest.mark.parametrize(
    ("nanos", "expected"),
    [
        (0, 0),
        (1_000_000_000, 1),
        (41_600_000, 0.0416),
        (123_456_789, 0.123457),
        (499, 0),
        (500, 0.000001),
        (-499, 0),
        (-1_500_000_500, -1.500001),
        (9_000_000_000_000_000_000, 9_000_000_000),
    ],
)
def test_dollars_have_at_most_six_decimals(nanos: int, expected: float) -> None:
    """Rounded half away from zero; never -0."""
    assert dollars(nanos) == expected
    assert str(dollars(nanos)) != "-0.0"


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        ("=SUM(A1)", None, "'=SUM(A1)"),
        ("+1", None, "+1"),
        ("-0.5", None, "-0.5"),
        ("+cmd", None, "'+cmd"),
        ("@x", None, "'@x"),
        ("\tx", None, "'\tx"),
        ("\rx", None, "'\rx"),
        ("a=b", None, "a=b"),
        (None, None, ""),
        (True, None, "true"),
        (1.5, 2, "1.50"),
        (-0.25, 6, "-0.250000"),
    ],
)
def test_cells_are_no_formulas(value: object, decimals: int | None, text: str) -> None:
    assert cell(value, decimals) == text


def test_lines_are_quoted_where_they_must_be() -> None:
    """Commas, quotes and line ends stay within their cell."""
    assert line(["a,b", 'say "x"', "two\nlines"]) == b'"a,b","say ""x""","two\nlines"\r\n'
