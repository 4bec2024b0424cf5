"""An agent's report of a switch: what it changes, and that it changes it once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from spotplane.v1 import fleet_pb2

from tests.fleet.world import ON_DEMAND, POOLS, SPOT, ZONES, World, at, end
from tests.support.plane import refused

OLD, NEW = "i-old", "i-new"


async def leased(world: World, agent_id: str, **wish: object) -> str:
    """Order a switch to the second pool and have the agent take it."""
    await world.force(OLD, **{"target": "pool", "pool_id": POOLS[1]} | wish)
    command = await world.lease(agent_id, OLD)
    return str(command.id)


async def test_report_moves_the_agent_and_leaves_a_zombie(world: World) -> None:
    """Roles, row, event and owed goodbye, in one step."""
    agent_id = await world.start(OLD)
    command_id = await leased(world, agent_id)
    begun = world.clock.now() - timedelta(seconds=90)

    switch_id = await world.report(
        agent_id,
        trigger="model",
        prices=fleet_pb2.SwitchPrices(on_demand_nanousd=ON_DEMAND, old_spot_nanousd=21_000_000),
        timing=fleet_pb2.SwitchTiming(
            initiated_at=at(begun), ready_at=at(begun + timedelta(seconds=60))
        ),
    )

    assert await world.instances() == {OLD: "zombie", NEW: "running_primary"}
    (row,) = await world.switches()
    assert str(row["id"]) == switch_id
    assert str(row["command_id"]) == command_id
    assert (row["trigger"], row["cause"], row["success"], row["reported"]) == (
        "MANUAL",  # the command's, whatever the agent says
        "switch",
        True,
        True,
    )
    assert (row["old_pool_id"], row["new_pool_id"]) == (POOLS[0], POOLS[1])
    # What the agent does not know is the market's.
    assert (row["old_price_nanousd"], row["new_price_nanousd"]) == (21_000_000, SPOT[1])
    assert row["savings_impact_nanousd"] == 21_000_000 - SPOT[1]
    assert (row["duration_seconds"], row["downtime_seconds"]) == (60, 0)
    owed = row["goodbye_owed_until"] - world.clock.now()
    assert timedelta(seconds=1190) < owed <= timedelta(seconds=1200)
    (event,) = await world.told("switch.completed")
    assert event["savings_impact_nanousd"] == row["savings_impact_nanousd"]
    assert (event["old_instance_id"], event["new_instance_id"]) == (OLD, NEW)


async def test_repeated_report_changes_nothing(world: World) -> None:
    """By pair and by command, before and after the command's completion."""
    agent_id = await world.start(OLD)
    command_id = await leased(world, agent_id)
    first = await world.report(agent_id)

    assert await world.report(agent_id) == first
    assert await world.report(agent_id, command_id=command_id) == first
    await world.done(agent_id, command_id)
    assert await world.report(agent_id) == first

    assert len(await world.switches()) == 1
    assert len(await world.told("switch.completed")) == 1
    assert await world.instances() == {OLD: "zombie", NEW: "running_primary"}


async def test_completion_before_the_report_takes_effect_once(world: World) -> None:
    """The completion names the new instance; the report adds what only the agent knows."""
    agent_id = await world.start(OLD)
    command_id = await leased(world, agent_id)
    await world.done(agent_id, command_id, instance_id=NEW)
    assert await world.instances() == {OLD: "zombie", NEW: "running_primary"}
    (before,) = await world.switches()

    switch_id = await world.report(agent_id, downtime_seconds=7.4)

    (after,) = await world.switches()
    assert (str(after["id"]), after["id"]) == (switch_id, before["id"])
    assert (before["reported"], after["reported"]) == (False, True)
    assert (before["downtime_seconds"], after["downtime_seconds"]) == (0, 7)


async def test_completion_without_any_instance_is_a_switch_in_place(world: World) -> None:
    """Mode and pool come from the command, and no goodbye is owed."""
    agent_id = await world.start(OLD)
    await world.force(OLD, target="ondemand")
    command = await world.lease(agent_id, OLD)

    await world.done(agent_id, command.id)

    (row,) = await world.switches()
    assert (row["old_instance_id"], row["new_instance_id"]) == (OLD, OLD)
    assert (row["old_mode"], row["new_mode"], row["new_pool_id"]) == ("spot", "ondemand", None)
    assert row["savings_impact_nanousd"] == SPOT[0] - ON_DEMAND
    assert row["goodbye_owed_until"] is None
    assert await world.instances() == {OLD: "running_primary"}


async def test_report_after_a_completion_that_looked_in_place_moves_after_all(world: World) -> None:
    """One switch, and the old instance is again what it was."""
    agent_id = await world.start(OLD)
    command_id = await leased(world, agent_id)
    await world.done(agent_id, command_id)
    (before,) = await world.switches()
    assert before["new_instance_id"] == OLD

    switch_id = await world.report(agent_id)

    (row,) = await world.switches()
    assert (str(row["id"]), row["new_instance_id"]) == (switch_id, NEW)
    assert row["goodbye_owed_until"] is not None
    assert await world.instances() == {OLD: "zombie", NEW: "running_primary"}
    assert await world.report(agent_id) == switch_id


async def test_candidate_that_waits_forbids_to_think_of_a_switch_in_place(world: World) -> None:
    """Its report will come, or it will serve by its own registration."""
    agent_id = await world.start(OLD)
    command_id = await leased(world, agent_id)
    await world.start(NEW, az=ZONES[1])
    assert (await world.instances())[NEW] == "launching"

    await world.done(agent_id, command_id)
    assert await world.switches() == []

    await world.report(agent_id)
    assert await world.instances() == {OLD: "zombie", NEW: "running_primary"}


async def test_failed_report_is_recorded_once_and_moves_nothing(world: World) -> None:
    """For its command, whichever path tells it."""
    agent_id = await world.start(OLD)
    command_id = await leased(world, agent_id)

    first = await world.report(agent_id, new=None, success=False, error_message="no capacity")
    again = await world.report(agent_id, new=None, success=False, error_message="no capacity")
    await world.done(agent_id, command_id, success=False)

    assert first == again
    (row,) = await world.switches()
    assert (row["success"], row["error_message"], row["trigger"]) == (
        False,
        "no capacity",
        "MANUAL",
    )
    assert row["savings_impact_nanousd"] == 0
    assert await world.instances() == {OLD: "running_primary"}
    assert len(await world.told("switch.failed")) == 1


async def test_success_after_a_failure_of_the_same_command_still_moves(world: World) -> None:
    """A failure had no effect that could have been used up."""
    agent_id = await world.start(OLD)
    command_id = await leased(world, agent_id)
    failed = await world.report(agent_id, new=None, success=False)

    moved = await world.report(agent_id, command_id=command_id)

    assert moved != failed
    assert await world.instances() == {OLD: "zombie", NEW: "running_primary"}


@pytest.mark.parametrize(
    ("said", "trigger"),
    [
        ("manual", "MANUAL"),
        ("model", "AUTOMATIC"),
        ("automatic", "AUTOMATIC"),
        ("emergency", "EMERGENCY"),
    ],
)
async def test_trigger_without_a_command_is_what_the_agent_says(
    world: World, said: str, trigger: str
) -> None:
    """There is nobody else to ask."""
    agent_id = await world.start(OLD)
    await world.report(agent_id, trigger=said)
    assert [row["trigger"] for row in await world.switches()] == [trigger]


async def test_old_instance_that_was_ended_is_terminated(world: World) -> None:
    """With consent that is no news; the goodbye is owed all the same."""
    agent_id = await world.start(OLD)
    gone = world.clock.now() - timedelta(seconds=40)

    await world.report(
        agent_id,
        timing=fleet_pb2.SwitchTiming(
            old_terminated_at=at(gone), traffic_switched_at=at(gone + timedelta(seconds=12))
        ),
    )

    assert await world.instances() == {OLD: "terminated", NEW: "running_primary"}
    (row,) = await world.switches()
    assert row["downtime_seconds"] == 12
    assert row["goodbye_owed_until"] is not None
    (event,) = await world.told("instance.terminated")
    assert (event["instance_id"], event["severity"], event["reason"]) == (OLD, "info", None)


async def test_end_without_consent_is_a_warning(world: World) -> None:
    """It has happened, and somebody should know."""
    agent_id = await world.start(OLD)
    await world.configure(agent_id, auto_terminate_enabled=False)

    await world.report(
        agent_id, timing=fleet_pb2.SwitchTiming(old_terminated_at=at(world.clock.now()))
    )

    (event,) = await world.told("instance.terminated")
    assert event["severity"] == "warning"
    assert "nobody had agreed" in event["reason"]


async def test_report_of_a_move_that_registration_made_adds_the_switch(world: World) -> None:
    """The new instance registered after its command's lease was over: it serves already."""
    agent_id = await world.start(OLD)
    await world.start(NEW, az=ZONES[1])
    assert await world.instances() == {OLD: "zombie", NEW: "running_primary"}
    assert await world.switches() == []

    switch_id = await world.report(agent_id)

    assert [str(row["id"]) for row in await world.switches()] == [switch_id]
    # Its report explains why it was left: it is displaced no more, and ends by the usual consent.
    world.clock.advance(timedelta(seconds=301))
    assert [d.instance_id for d in (await world.doomed(agent_id)).instances] == [OLD]


async def test_report_of_an_agent_that_moved_elsewhere_keeps_who_serves(world: World) -> None:
    """A third instance serves: the switch came too late, its instance is extra."""
    agent_id = await world.start(OLD)
    await world.start("i-third", az=ZONES[2])

    await world.report(agent_id)

    assert await world.instances() == {
        OLD: "zombie",
        "i-third": "running_primary",
        NEW: "zombie",
    }
    (row,) = await world.switches()
    assert (row["success"], row["error_message"]) == (False, "the agent had moved meanwhile")
    assert [e["instance_id"] for e in await world.told("instance.extra")] == [NEW]


async def test_agents_clock_is_believed_within_bounds(world: World) -> None:
    """Beyond them the time of receipt counts."""
    agent_id = await world.start(OLD)
    now = world.clock.now()

    await world.report(
        agent_id,
        timing=fleet_pb2.SwitchTiming(
            initiated_at=at(now - timedelta(days=9)), ready_at=at(now + timedelta(hours=1))
        ),
    )

    (row,) = await world.switches()
    assert abs(row["initiated_at"] - now) < timedelta(seconds=10)
    assert abs(row["ready_at"] - now) < timedelta(seconds=10)


async def test_younger_agent_on_the_new_instance_takes_the_older_ones_place(world: World) -> None:
    """Agents that go by their instance's name register anew."""
    older = await world.start(OLD, name=OLD)
    await world.configure(older, terminate_wait_seconds=77)
    command_id = await leased(world, older)
    younger = await world.start(NEW, name=NEW, az=ZONES[1])
    assert younger != older

    switch_id = await world.report(older)

    assert await world.instances() == {OLD: "zombie", NEW: "running_primary"}
    (row,) = await world.switches()
    assert (str(row["agent_id"]), str(row["command_id"])) == (younger, command_id)
    assert row["goodbye_owed_until"] is None
    assert (await world.doomed(younger)).terminate_wait_seconds == 77
    assert await world.report(older) == switch_id
    await world.done(older, command_id)


async def test_new_instance_is_required_unless_the_switch_failed(world: World) -> None:
    """And it must be able to serve."""
    agent_id = await world.start(OLD)
    async with refused("MISSING_FIELD"):
        await world.report(agent_id, new=None)

    await world.start(NEW, az=ZONES[1])
    await world.ended(agent_id, OLD)
    async with refused("INVALID_TRANSITION"):
        await world.report(agent_id, old=NEW, new=OLD)


async def test_report_without_the_old_instance_means_the_primary(world: World) -> None:
    """And repeating it still changes nothing."""
    agent_id = await world.start(OLD)

    first = await world.report(agent_id, old=None)

    assert await world.report(agent_id, old=None) == first
    (row,) = await world.switches()
    assert (row["old_instance_id"], row["new_instance_id"]) == (OLD, NEW)


async def test_another_tenants_agent_is_unknown(world: World) -> None:
    """Whatever the report says."""
    agent_id = await world.start(OLD)
    theirs = World(world.plane, await world.plane.tenant(), world.clock)
    async with refused("AGENT_NOT_FOUND"):
        await theirs.report(agent_id)


async def test_end_in_on_demand_mode_costs_the_on_demand_price(world: World) -> None:
    """Whatever its zone's pool costs."""
    agent_id = await world.start(OLD)

    await world.report(agent_id, new_instance=end(NEW, ZONES[1], "ondemand"))

    (row,) = await world.switches()
    assert (row["new_mode"], row["new_pool_id"]) == ("ondemand", None)
    assert row["new_price_nanousd"] == ON_DEMAND


async def test_switch_in_place_that_is_reported_is_recorded_once(world: World) -> None:
    """By an agent that names the same instance twice."""
    agent_id = await world.start(OLD)
    place = end(OLD, ZONES[0], "ondemand")

    first = await world.report(agent_id, new_instance=place)

    assert await world.report(agent_id, new_instance=place) == first
    (row,) = await world.switches()
    assert (row["old_mode"], row["new_mode"]) == ("spot", "ondemand")
    assert await world.instances() == {OLD: "running_primary"}
