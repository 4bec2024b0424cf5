"""From a notice to a new primary, with real agents on a simulated cloud."""

from __future__ import annotations

from pathlib import Path

from tests.support.eventually import eventually
from tests.support.fleet import TYPE, ZONES, Calls, simulated
from tests.support.plane import Plane


async def test_termination_notice_promotes_the_standing_replica(
    plane: Plane, tmp_path: Path
) -> None:
    """The notice's instance becomes a zombie, the replica's instance serves and knows it."""
    tenant = await plane.tenant()
    async with simulated(tmp_path, plane.target, tenant) as fleet:
        calls = Calls(plane.channel, tenant)
        primary = await fleet.start("chat")
        assert primary.agent is not None
        agent_id = str(primary.agent.agent_id)
        await calls.configure(agent_id, manual_replica_enabled=True)
        replica = await calls.replica(agent_id, status="ready")

        fleet.cloud.interrupt(primary.instance_id, 60)

        standby = fleet.cloud.instances[replica.instance_id].agent
        assert standby is not None
        await standby.wait_for(role="primary")
        await primary.agent.wait_for(role="retired")
        (failover,) = await calls.failovers_of(agent_id)
        assert (failover.status, failover.action) == ("resolved", "promoted_replica")
        assert failover.new_instance_id == replica.instance_id
        agent = await calls.agent(agent_id)
        assert agent.instance_id == replica.instance_id


async def test_launch_that_fails_is_tried_in_the_next_pool(plane: Plane, tmp_path: Path) -> None:
    """There is no time to wait for capacity to come back."""
    tenant = await plane.tenant()
    async with simulated(tmp_path, plane.target, tenant) as fleet:
        calls = Calls(plane.channel, tenant)
        primary = await fleet.start("chat")
        assert primary.agent is not None
        await primary.agent.wait_drained()  # its prices too
        fleet.cloud.unavailable_pools.add(f"{TYPE}.{ZONES[1]}")

        fleet.cloud.interrupt(primary.instance_id, 60)

        async def moved() -> str | None:
            agent = await calls.agent(str(primary.agent and primary.agent.agent_id))
            return agent.az if agent.instance_id != primary.instance_id else None

        assert await eventually(moved, every=0.15) == ZONES[2]


async def test_nothing_but_on_demand_is_left_without_spot_capacity(
    plane: Plane, tmp_path: Path
) -> None:
    """Each pool is tried once, then the last resort; the new instance serves."""
    tenant = await plane.tenant()
    async with simulated(tmp_path, plane.target, tenant) as fleet:
        calls = Calls(plane.channel, tenant)
        primary = await fleet.start("chat")
        assert primary.agent is not None
        agent_id = str(primary.agent.agent_id)
        await primary.agent.wait_drained()
        fleet.cloud.unavailable_pools |= {f"{TYPE}.{zone}" for zone in ZONES}

        fleet.cloud.interrupt(primary.instance_id, 60)

        async def mode() -> bool:
            return (await calls.agent(agent_id)).mode == "ondemand"

        await eventually(mode, every=0.15)

        async def resolved() -> bool:
            (failover,) = await calls.failovers_of(agent_id)
            return (failover.status, failover.action) == ("resolved", "queued_ondemand_switch")

        await eventually(resolved, every=0.15)
        async with plane.db.connection("*") as conn:
            tried = await conn.fetchval("SELECT count(*) FROM replicas WHERE status = 'failed'")
        assert tried == len(ZONES) - 1
