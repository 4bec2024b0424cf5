"""Prices that agents stream: soon clean, and believed as the teller's part deserves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import agent_stream_pb2
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.market.queries import Reporting
from spotplane_server.market.reports import source_of

from tests.support.eventually import eventually
from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.link import Hand, by_hand
from tests.support.plane import Plane


@pytest.fixture
async def hand(plane: Plane) -> AsyncIterator[Hand]:
    """A tenant's agents, spoken by hand."""
    async with by_hand(plane) as agents:
        yield agents


def report(plane: Plane, price: int, zone: str = ZONES[0]) -> agent_stream_pb2.PriceReport:
    """A zone's price, seen now."""
    at = Timestamp()
    at.FromDatetime(plane.server.kernel.clock.now())
    return agent_stream_pb2.PriceReport(
        region=REGION,
        observed_at=at,
        spot=[
            agent_stream_pb2.PriceReport.SpotPrice(
                instance_type=TYPE, az=zone, price_nanousd_per_hour=price
            )
        ],
    )


async def source(plane: Plane, zone: str) -> str | None:
    """Who told the newest clean price of a zone."""
    async with plane.db.connection(ALL_TENANTS) as conn:
        found: str | None = await conn.fetchval(
            "SELECT source FROM clean_prices WHERE pool_id = $1 ORDER BY bucket_at DESC LIMIT 1",
            f"{TYPE}.{zone}",
        )
    return found


async def test_streamed_price_is_clean_within_a_moment(plane: Plane, hand: Hand) -> None:
    """The report wakes the pipeline, which does not wait for its period."""
    _, stream = await hand.start("i-1")

    assert await stream.report(prices=report(plane, 300_000_000)) == ""

    assert await eventually(lambda: source(plane, ZONES[0]), within=5) == "primary"


async def test_who_has_left_the_fleet_is_believed_least(plane: Plane, hand: Hand) -> None:
    """A zombie still tells prices; whoever serves is believed over it."""
    agent_id, old = await hand.start("i-1")
    registered = await hand.register("i-2")
    assert registered.agent_id == agent_id
    assert await old.report(prices=report(plane, 300_000_000, ZONES[1])) == ""

    assert await eventually(lambda: source(plane, ZONES[1])) == "unknown"


async def test_bad_prices_do_not_refuse_a_report(plane: Plane, hand: Hand) -> None:
    """They are counted; the report is acknowledged, or it would come back for ever."""
    agent_id, stream = await hand.start("i-1")
    assert await stream.report(prices=report(plane, 101 * 10**9)) == ""

    async with plane.db.connection(ALL_TENANTS) as conn:
        row = await conn.fetchrow("SELECT agent_id, accepted, dropped FROM price_reports")
    assert row is not None
    assert (str(row["agent_id"]), row["accepted"], row["dropped"]) == (agent_id, 0, 1)


@pytest.mark.parametrize(
    ("status", "replica", "expected"),
    [
        ("running_primary", None, "primary"),
        ("running_primary", "manual", "primary"),  # it was one until it was promoted
        ("running_replica", "manual", "replica-manual"),
        ("running_replica", "automatic-rebalance", "replica-automatic"),
        ("promoting", "automatic-termination", "replica-automatic"),
        ("launching", "manual", "replica-manual"),
        ("launching", None, "unknown"),
        ("zombie", None, "unknown"),
        ("terminated", "manual", "unknown"),
        (None, None, "unknown"),
    ],
)
def test_source_is_the_tellers_part(status: Any, replica: str | None, expected: str) -> None:
    """What it plays now, not what it was."""
    tenant = TenantId(uuid4())
    found = Reporting(tenant, "i-1", TYPE, f"{TYPE}.a", status, replica, REGION)
    assert source_of(found) == expected
