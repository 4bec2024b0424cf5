"""An agent with somebody standing by, spoken by hand."""

from __future__ import annotations

from typing import Any

from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1 import failover_pb2, replica_pb2

from tests.support.fleet import ZONES, Calls
from tests.support.link import Conversation, Hand, bind

TERMINATION, REBALANCE = pb.Notice.KIND_TERMINATION, pb.Notice.KIND_REBALANCE


async def notice(stream: Conversation, kind: Any = TERMINATION, **more: Any) -> None:
    """Report a notice; it is decided, if it can be, when this returns."""
    assert await stream.report(notice=pb.Notice(kind=kind, **more)) == ""


async def tell(stream: Conversation, replica_id: str, status: str) -> None:
    """Report a replica's state."""
    report = pb.ReplicaReport(replica_id=replica_id, status=status)
    assert await stream.report(replica=report) == ""


async def primary(hand: Hand, *, zones: tuple[str, ...] = ZONES) -> tuple[str, Conversation]:
    """An agent whose pools are known."""
    agent_id, stream = await hand.start("i-1")
    if zones:
        await hand.prices(stream, *zones)
    return agent_id, stream


async def stand_by(
    calls: Calls, agent_id: str, stream: Conversation, status: str = "ready"
) -> replica_pb2.Replica:
    """A replica that a user asked for, as far as it is to be."""
    replica = await calls.replicas.CreateReplica(
        replica_pb2.CreateReplicaRequest(agent_id=agent_id), metadata=calls.metadata
    )
    if status != "launching":
        await bind(stream, replica.id)
    if status == "ready":
        await tell(stream, replica.id, "ready")
    found: replica_pb2.Replica = await calls.replicas.GetReplica(
        replica_pb2.GetReplicaRequest(agent_id=agent_id, replica_id=replica.id),
        metadata=calls.metadata,
    )
    return found


async def only(calls: Calls, agent_id: str) -> failover_pb2.Failover:
    """The agent's one failover, with its steps."""
    (found,) = await calls.failovers_of(agent_id)
    whole: failover_pb2.Failover = await calls.failovers.GetFailover(
        failover_pb2.GetFailoverRequest(agent_id=agent_id, failover_id=found.id),
        metadata=calls.metadata,
    )
    return whole


def steps(failover: failover_pb2.Failover) -> list[str]:
    """What was done, in order."""
    return [step.kind for step in failover.steps]


async def report(calls: Calls, agent_id: str, kind: str, **more: Any) -> failover_pb2.Failover:
    """Report a notice by the unary call."""
    answer: failover_pb2.Failover = await calls.failovers.ReportNotice(
        failover_pb2.ReportNoticeRequest(agent_id=agent_id, kind=kind, **more),
        metadata=calls.metadata,
    )
    return answer
