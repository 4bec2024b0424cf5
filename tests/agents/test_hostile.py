"""Agents that say what no agent should: each harms at most itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1.usage_pb2 import UsageRecord
from spotplane_server.agents.sessions.registry import Sessions

from tests.support.fleet import Calls
from tests.support.link import Hand
from tests.support.plane import Plane

NUL = "i-\x00"
FAR = Timestamp(seconds=253_402_300_799)
BEYOND = Timestamp(seconds=1 << 62, nanos=-5)
TERMINATION = pb.Notice.KIND_TERMINATION

REPORTS: list[dict[str, Any]] = [
    {"notice": pb.Notice(kind=TERMINATION, instance_id=NUL)},
    {"notice": pb.Notice(kind=TERMINATION, deadline=BEYOND)},
    {"notice": pb.Notice(kind=99)},  # type: ignore[arg-type]
    {"termination": pb.TerminationReport(instance_id=NUL)},
    {"termination": pb.TerminationReport()},
    {"replica": pb.ReplicaReport(replica_id=NUL, status="ready")},
    {"replica": pb.ReplicaReport(replica_id="0" * 32, status="ready")},
    {"replica": pb.ReplicaReport(replica_id="0" * 32, status="ready", sync_progress=math.nan)},
    {"command_result": pb.CommandResult(command_id="0" * 32, message="x" * 2001)},
    {"command_result": pb.CommandResult(command_id="0" * 32, message="\x00")},
    {"prices": pb.PriceReport(region="")},
    {"prices": pb.PriceReport(region="r", observed_at=BEYOND)},
]
HARMLESS: list[dict[str, Any]] = [
    {"termination": pb.TerminationReport(instance_id="i-unknown", terminated_at=BEYOND)},
    {"usage": pb.UsageReport(records=[UsageRecord(request_id="\x00", prompt_tokens=1)])},
    {"usage": pb.UsageReport(records=[UsageRecord(request_id="r", prompt_tokens=-(1 << 62))])},
    {"prices": pb.PriceReport(region="r", observed_at=FAR)},
    {"usage": pb.UsageReport()},
    {
        "prices": pb.PriceReport(
            region="r",
            spot=[
                pb.PriceReport.SpotPrice(instance_type=NUL, az="a", price_nanousd_per_hour=1),
            ],
        )
    },
]


async def test_no_report_holds_up_those_behind_it(hand: Hand, calls: Calls) -> None:
    """Whatever cannot be taken is refused for good, and the stream goes on."""
    agent_id, stream = await hand.start("i-1")
    for content in REPORTS:
        assert await stream.report(**content) != "", content
    for content in HARMLESS:
        await stream.report(**content)

    assert (await stream.beat()).seq == 1
    assert await stream.report(termination=pb.TerminationReport(instance_id="i-9")) == ""
    assert (await calls.agent(agent_id)).instance_id == "i-1"


@pytest.mark.parametrize("value", [1e300, -1.0, math.nan, math.inf], ids=str)
async def test_heartbeat_with_an_absurd_number_keeps_nobodys_from_being_written(
    plane: Plane, hand: Hand, value: float
) -> None:
    """All heartbeats go in one statement, and one bad value would spoil it for ever."""
    _, hostile = await hand.start("i-1", name="hostile")
    _, honest = await hand.start("i-2", name="honest")
    await hostile.beat(cpu_percent=value, memory_percent=value)
    await honest.beat(cpu_percent=45)

    owners: list[Any] = [drain.__self__ for drain in plane.server.parts.drain]
    (sessions,) = [owner for owner in owners if isinstance(owner, Sessions)]
    await sessions.flush()

    async with plane.db.connection("*") as conn:
        rows = await conn.fetch("SELECT cpu_percent FROM agent_sessions ORDER BY instance_id")
    assert [row["cpu_percent"] for row in rows] == [None, 45]
