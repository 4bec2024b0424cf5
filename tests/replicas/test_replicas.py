"""Replicas: asked for, bound, reported, promoted, ended."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1 import replica_pb2

from tests.support.fleet import REGION, TYPE, ZONES, Calls
from tests.support.link import Conversation, Hand, bind
from tests.support.plane import Plane, refusal, refused


async def create(calls: Calls, agent_id: str, **more: Any) -> replica_pb2.Replica:
    """Ask for a replica."""
    made: replica_pb2.Replica = await calls.replicas.CreateReplica(
        replica_pb2.CreateReplicaRequest(agent_id=agent_id, **more), metadata=calls.metadata
    )
    return made


async def get(calls: Calls, replica: replica_pb2.Replica) -> replica_pb2.Replica:
    """Read a replica."""
    found: replica_pb2.Replica = await calls.replicas.GetReplica(
        replica_pb2.GetReplicaRequest(agent_id=replica.agent_id, replica_id=replica.id),
        metadata=calls.metadata,
    )
    return found


async def promote(calls: Calls, replica: replica_pb2.Replica, **more: Any) -> replica_pb2.Replica:
    """Promote a replica."""
    promoted: replica_pb2.Replica = await calls.replicas.PromoteReplica(
        replica_pb2.PromoteReplicaRequest(agent_id=replica.agent_id, replica_id=replica.id, **more),
        metadata=calls.metadata,
    )
    return promoted


async def tell(stream: Conversation, replica: replica_pb2.Replica, status: str, **more: Any) -> str:
    """Report a replica's state; why it was refused, empty when it was not."""
    return await stream.report(
        replica=pb.ReplicaReport(replica_id=replica.id, status=status, **more)
    )


async def standing(
    hand: Hand, calls: Calls, name: str = "chat"
) -> tuple[Conversation, replica_pb2.Replica]:
    """A primary's stream, and a launching replica of it."""
    agent_id, stream = await hand.start("i-1" if name == "chat" else f"i-{name}", name)
    await hand.prices(stream)
    return stream, await create(calls, agent_id)


async def test_replica_is_ordered_from_the_primary(hand: Hand, calls: Calls) -> None:
    """In the cheapest other pool, under a placeholder until it is bound."""
    stream, replica = await standing(hand, calls)

    assert (replica.status, replica.type, replica.created_by) == ("launching", "manual", "user")
    assert replica.pool_id == f"{TYPE}.{ZONES[1]}"
    assert replica.instance_id.startswith("manual-")
    assert replica.hourly_cost_usd == pytest.approx(0.31)
    order = await stream.hear("command")
    assert (order.type, order.priority) == ("create_replica", 100)
    given = dict(order.parameters.items())
    assert (given["replica_id"], given["az"], given["region"]) == (replica.id, ZONES[1], REGION)


async def test_one_live_replica_an_agent(hand: Hand, calls: Calls) -> None:
    """However many ask at once."""
    agent_id, stream = await hand.start("i-1")
    await hand.prices(stream)

    answers = await asyncio.gather(
        *(create(calls, agent_id) for _ in range(10)), return_exceptions=True
    )

    made = [a for a in answers if isinstance(a, replica_pb2.Replica)]
    reasons = {refusal(a).reason for a in answers if isinstance(a, grpc.aio.AioRpcError)}
    assert (len(made), reasons) == (1, {"REPLICA_LIMIT"})


async def test_where_a_replica_may_go_is_the_callers_choice(hand: Hand, calls: Calls) -> None:
    """A pool, zones to avoid, a highest price; what does not fit is refused."""
    agent_id, stream = await hand.start("i-1")
    async with refused("NO_POOL_AVAILABLE"):
        await create(calls, agent_id)
    await hand.prices(stream)
    async with refused("UNKNOWN_POOL", field="pool_id"):
        await create(calls, agent_id, pool_id="t.nowhere")
    async with refused("NO_POOL_AVAILABLE"):
        await create(calls, agent_id, max_hourly_cost=0.1)
    async with refused("NO_POOL_AVAILABLE"):
        await create(calls, agent_id, exclude_zones=ZONES)

    replica = await create(calls, agent_id, exclude_zones=[ZONES[1]])

    assert replica.az == ZONES[2]


async def test_nobody_launches_for_an_agent_that_is_offline(hand: Hand, calls: Calls) -> None:
    """Its primary would have to."""
    agent_id, stream = await hand.start("i-1")
    await hand.prices(stream)
    await stream.say(goodbye=pb.Goodbye())
    await stream.end()

    async with refused("AGENT_OFFLINE"):
        await create(calls, agent_id)


async def test_bound_instance_stands_by(hand: Hand, calls: Calls) -> None:
    """Whoever reports it, the launcher or the instance itself by registering, or both."""
    stream, replica = await standing(hand, calls)
    order = await stream.hear("command")

    registered = await hand.register("i-2", zone=ZONES[1], replica_id=replica.id)
    await tell(stream, replica, "syncing", instance_id="i-2")
    await stream.finish(order.command_id, instance_id="i-2")

    assert (registered.desired_state.role, registered.desired_state.replica_id) == (
        "replica",
        replica.id,
    )
    found = await get(calls, replica)
    assert (found.status, found.sync_status, found.instance_id) == ("syncing", "syncing", "i-2")


async def test_replica_is_bound_once(hand: Hand, calls: Calls) -> None:
    """The same instance again changes nothing, another is refused."""
    stream, replica = await standing(hand, calls)
    instance_id = await bind(stream, replica.id)

    assert await tell(stream, replica, "syncing", instance_id=instance_id) == ""
    assert "another instance" in await tell(stream, replica, "syncing", instance_id="i-other")
    assert (await get(calls, replica)).instance_id == instance_id


async def test_replica_is_not_bound_to_an_instance_that_has_a_part(
    hand: Hand, calls: Calls
) -> None:
    """Neither to the primary itself nor to another agent's."""
    stream, replica = await standing(hand, calls)
    await hand.register("i-9", name="search")

    for instance_id in ("i-1", "i-9"):
        assert await tell(stream, replica, "ready", instance_id=instance_id) != ""
    assert (await get(calls, replica)).status == "launching"
    assert (await calls.agent(replica.agent_id)).instance_id == "i-1"


# What a replica has been through, what is reported then, and what it is afterwards; nothing means
# that the report is refused for good and changes nothing.
REPORTS: list[tuple[list[str], str, str]] = [
    ([], "launching", "launching"),
    ([], "ready", "ready"),
    ([], "failed", "failed"),
    ([], "terminated", "terminated"),
    (["bind"], "ready", "ready"),
    (["bind"], "launching", ""),
    (["bind", "ready"], "ready", "ready"),
    (["bind", "ready"], "syncing", "ready"),
    (["bind", "ready"], "failed", "failed"),
    (["failed"], "ready", ""),
    (["failed"], "failed", "failed"),
    (["failed"], "terminated", "terminated"),
    (["terminated"], "terminated", "terminated"),
    (["terminated"], "ready", ""),
    (["bind", "promote"], "ready", "promoted"),
    (["bind", "promote"], "syncing", "promoted"),
    (["bind", "promote"], "failed", ""),
    ([], "promoted", ""),
]


async def test_reports_move_replicas_as_allowed(hand: Hand, calls: Calls) -> None:
    """The whole table, each line with an agent of its own."""
    for number, (path, status, outcome) in enumerate(REPORTS):
        stream, replica = await standing(hand, calls, f"agent-{number}")
        for step in path:
            if step == "bind":
                await bind(stream, replica.id)
            elif step == "promote":
                await promote(calls, replica)
            else:
                await tell(stream, replica, step)
        before = (await get(calls, replica)).status

        why = await tell(stream, replica, status)

        line = (path, status, outcome, why)
        assert (why == "") == bool(outcome), line
        assert (await get(calls, replica)).status == (outcome or before), line


async def test_progress_is_kept_while_it_synchronizes(hand: Hand, calls: Calls) -> None:
    """From 0 to 100, and 100 once ready."""
    stream, replica = await standing(hand, calls)
    await bind(stream, replica.id)
    await tell(stream, replica, "syncing", sync_progress=40)
    assert (await get(calls, replica)).sync_progress == 40
    assert await tell(stream, replica, "syncing", sync_progress=101) != ""

    await tell(stream, replica, "ready")

    found = await get(calls, replica)
    assert (found.sync_progress, found.sync_status) == (100, "synced")


async def test_promotion_changes_places_in_one_step(hand: Hand, calls: Calls) -> None:
    """The instance serves, the former primary is retired, and both are told."""
    stream, replica = await standing(hand, calls)
    instance_id = await bind(stream, replica.id)
    standby = await hand.connect(replica.agent_id, instance_id)
    assert (await standby.hear("desired_state")).role == "replica"

    promoted = await promote(calls, replica)

    assert promoted.status == "promoted"
    assert (await standby.hear("desired_state")).role == "primary"
    roles = []
    while "retired" not in roles:
        roles.append((await stream.hear("desired_state")).role)
    assert (await calls.agent(replica.agent_id)).instance_id == instance_id


async def test_parallel_promotions_have_one_effect(plane: Plane, hand: Hand, calls: Calls) -> None:
    """All callers are answered the same."""
    stream, replica = await standing(hand, calls)
    instance_id = await bind(stream, replica.id)

    answers = await asyncio.gather(*(promote(calls, replica) for _ in range(10)))

    assert {answer.status for answer in answers} == {"promoted"}
    assert (await calls.agent(replica.agent_id)).instance_id == instance_id
    async with plane.db.connection("*") as conn:
        moved = await conn.fetchval(
            "SELECT count(*) FROM outbox_events WHERE event_type = 'replica.promoted'"
        )
    assert moved == 1


async def test_placeholder_is_never_promoted(hand: Hand, calls: Calls) -> None:
    """Nor one that is only in step half, when the caller wants to wait."""
    stream, replica = await standing(hand, calls)
    async with refused("REPLICA_NOT_PROMOTABLE"):
        await promote(calls, replica)
    await bind(stream, replica.id)
    async with refused("REPLICA_NOT_PROMOTABLE"):
        await promote(calls, replica, wait_for_sync=True)


async def test_deleted_replicas_instance_is_ended_by_the_primary(hand: Hand, calls: Calls) -> None:
    """Marked at once, confirmed when the cloud has; then it is final."""
    stream, replica = await standing(hand, calls)
    instance_id = await bind(stream, replica.id)
    await stream.hear("command")
    request = replica_pb2.DeleteReplicaRequest(agent_id=replica.agent_id, replica_id=replica.id)

    marked = await calls.replicas.DeleteReplica(request, metadata=calls.metadata)
    assert (marked.status, marked.termination_confirmed) == ("terminated", False)
    order = await stream.hear("command")
    assert (order.type, order.parameters["instance_id"]) == ("terminate_replica", instance_id)
    await stream.report(termination=pb.TerminationReport(instance_id=instance_id))

    assert (await get(calls, replica)).termination_confirmed
    async with refused("REPLICA_ALREADY_FINAL"):
        await calls.replicas.DeleteReplica(request, metadata=calls.metadata)


async def test_instance_of_a_replica_given_up_meanwhile_is_ended(hand: Hand, calls: Calls) -> None:
    """It does not take over, and does not stay."""
    stream, replica = await standing(hand, calls)
    await stream.hear("command")
    await calls.replicas.DeleteReplica(
        replica_pb2.DeleteReplicaRequest(agent_id=replica.agent_id, replica_id=replica.id),
        metadata=calls.metadata,
    )

    late = await hand.register("i-2", zone=ZONES[1], replica_id=replica.id)

    assert late.desired_state.role == "retired"
    assert (await stream.hear("command")).type == "terminate_replica"


async def test_failed_launch_fails_the_replica(hand: Hand, calls: Calls) -> None:
    """With what the cloud said."""
    stream, replica = await standing(hand, calls)
    order = await stream.hear("command")

    await stream.report(
        command_result=pb.CommandResult(
            command_id=order.command_id, success=False, message="no capacity"
        )
    )

    found = await get(calls, replica)
    assert (found.status, found.message) == ("failed", "no capacity")
