"""From a notice to a promoted replica, with real agents."""

from __future__ import annotations

from pathlib import Path

from tests.support.eventually import eventually
from tests.support.fleet import Calls, simulated
from tests.support.plane import Plane


async def test_termination_notice_promotes_the_standing_replica(
    plane: Plane, tmp_path: Path
) -> None:
    """The notice's instance becomes a zombie, the replica's instance serves and knows it."""
    tenant = await plane.tenant()
    async with simulated(tmp_path, plane.target, tenant) as fleet:
        calls = Calls(plane.channel, tenant)
        primary = await fleet.start("chat")
        agent_id = primary.agent.agent_id
        await calls.configure(agent_id, manual_replica_enabled=True)
        replica = await calls.replica(agent_id, status="ready")

        fleet.cloud.interrupt(primary.instance_id, 60)

        standby = fleet.cloud.instances[replica.instance_id]
        await eventually(lambda: standby.agent.role == "primary")
        await eventually(lambda: primary.agent.role == "retired")
        (failover,) = await calls.failovers_of(agent_id)
        assert (failover.status, failover.action) == ("resolved", "promoted_replica")
        assert failover.new_instance_id == replica.instance_id
        agent = await calls.agent(agent_id)
        assert agent.instance_id == replica.instance_id
        print("response_ms", failover.response_ms)
