"""What the fleet does by itself: the daily word about zombies, and how long emergencies took."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from spotplane_server.fleet.jobs import DowntimeJob, ZombieReportJob
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.fleet.world import SPOT, ZONES, World


def next_at(world: World, hour: int, minute: int = 0) -> datetime:
    """Move the clock to the next such time of day."""
    now = world.clock.now().astimezone(UTC)
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    then += timedelta(days=1) if then <= now else timedelta()
    world.clock.advance(then - now)
    return then


async def kept_zombie(world: World) -> str:
    """An agent whose former instance nobody agreed to end."""
    agent_id = await world.start("i-old")
    await world.configure(agent_id, auto_terminate_enabled=False)
    await world.report(agent_id)
    return agent_id


async def test_zombies_without_consent_are_told_of_once_a_day(world: World) -> None:
    """With their age and what they cost, to their tenant only."""
    agent_id = await kept_zombie(world)
    other = World(world.plane, await world.plane.tenant(), world.clock)
    await other.report(await other.start("i-old"))
    job = ZombieReportJob(world.plane.db)
    world.clock.advance(timedelta(days=1))
    morning = next_at(world, 6)

    assert await job.run_once(morning - timedelta(minutes=1)) in {0, 1}
    before = len(await world.told("zombies.reported"))
    await job.run_once(morning)
    await job.run_once(morning + timedelta(hours=5))

    told = (await world.told("zombies.reported"))[before:]
    assert len(told) == 1
    (item,) = told[0]["instances"]
    assert (told[0]["count"], told[0]["hourly_cost_nanousd"]) == (1, SPOT[0])
    assert (item["instance_id"], item["agent_id"]) == ("i-old", agent_id)
    assert item["age_seconds"] >= 86_400
    assert told[0]["oldest_hours"] == item["age_seconds"] // 3600 >= 24
    assert item["cost_nanousd"] == SPOT[0] * item["age_seconds"] // 3600
    # Theirs ends by itself.
    assert await other.told("zombies.reported") == []


async def test_zombies_that_somebody_agreed_to_end_are_no_news(world: World) -> None:
    """By the setting of their agent."""
    agent_id = await kept_zombie(world)
    await world.configure(agent_id, auto_terminate_enabled=True)
    job = ZombieReportJob(world.plane.db)
    world.clock.advance(timedelta(days=1))

    await job.run_once(next_at(world, 6, 1))

    assert await world.told("zombies.reported") == []


async def test_downtime_of_an_emergency_ends_with_the_first_sign_of_life(world: World) -> None:
    """Of the new primary, after the old one was terminated; measured once."""
    agent_id = await world.start("i-old")
    tenant_id, switch_id, now = UUID(world.tenant.id), uuid4(), world.clock.now()
    async with world.plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute(
            """
            INSERT INTO switches (tenant_id, id, agent_id, old_instance_id, new_instance_id,
                                  trigger, cause, initiated_at, old_terminated_at, created_at)
            VALUES ($1, $2, $3, 'i-old', 'i-new', 'EMERGENCY', 'termination', $4, $5, $4)
            """,
            tenant_id,
            switch_id,
            UUID(agent_id),
            now,
            now - timedelta(seconds=45),
        )
    job = DowntimeJob(world.plane.db)
    assert await job.run_once(now) == 0
    await world.start("i-new", az=ZONES[1])

    await job.run_once(world.clock.now())
    world.clock.advance(timedelta(minutes=5))
    await job.run_once(world.clock.now())

    (row,) = await world.switches()
    assert 45 <= row["downtime_seconds"] < 60
    assert row["ready_at"] is not None
