"""The loop decides for every agent that may be switched, and orders each switch once."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from spotplane.v1 import agent_stream_pb2 as stream_pb
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.decisions.engine_registry import Panel
from spotplane_server.decisions.loop import DecisionLoop
from spotplane_server.decisions.recording import STORE_EVERY
from spotplane_server.kernel.db.database import ALL_TENANTS, Database

from tests.decisions.world import A, B, C, World
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.plane import running


async def test_a_switch_that_passes_every_gate_is_ordered(world: World) -> None:
    """Priority 25, trigger AUTOMATIC, and a decision that explains it."""
    await world.market(0.5, 0.3)
    agent_id, stream = await world.agent()

    await world.loop()

    command = await stream.hear("command")
    (row,) = await world.switches(agent_id)
    assert (row["priority"], row["trigger"], str(row["id"])) == (
        25,
        "AUTOMATIC",
        command.command_id,
    )
    (decision,) = await world.decisions(agent_id)
    assert (decision["outcome"], decision["action"]) == ("executed", "switch")
    assert (decision["target_pool_id"], decision["command_id"]) == (B, row["id"])
    assert (decision["engine"], decision["engine_version"]) == ("rules", "1")


async def test_a_decision_tells_what_it_rested_on(world: World) -> None:
    """Inputs, a score for each place, risk, and every gate with value and limit."""
    await world.market(0.5, 0.3)
    await world.interruptions(B, 3)
    agent_id, _ = await world.agent()
    await world.loop()

    (row,) = await world.decisions(agent_id)
    inputs, gates = json.loads(row["inputs"]), json.loads(row["gates"])
    assert inputs["risk_model"] == "risk-v1"
    assert [(p["id"], p["price"], p["interruptions_30d"]) for p in inputs["pools"]] == [
        (A, 0.5, 0),
        (B, 0.3, 3),
    ]
    assert json.loads(row["scores"]) == {A: 0.5, B: 0.3, "ondemand": 1.0}
    found = {gate["name"]: gate for gate in gates}
    assert len(found) == 8
    assert (found["risk"]["value"], found["risk"]["limit"]) == (0.1, 0.3)
    (event,) = await world.events("decision.made")
    assert json.loads(event["data"])["command_id"] == str(row["command_id"])


async def test_a_gate_that_holds_is_told_and_nothing_is_ordered(world: World) -> None:
    """An instance that has just begun to serve stays for two hours."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent(min_pool_duration_hours=2)

    assert await world.loop() == 0

    (row,) = await world.decisions(agent_id)
    assert (row["outcome"], row["command_id"]) == ("blocked", None)
    assert await world.switches(agent_id) == []


async def test_a_decision_is_stored_when_it_changes_and_every_five_minutes(
    world: World, clock: FakeClock
) -> None:
    """And not each time."""
    await world.market(0.5)
    agent_id, _ = await world.agent()

    async def stored() -> int:
        await world.loop()
        return len(await world.decisions(agent_id))

    assert await stored() == 1
    assert await stored() == 1
    clock.advance(STORE_EVERY)
    await world.market(0.5)
    assert await stored() == 2
    await world.market(0.5, 0.49)
    assert await stored() == 2
    await world.market(0.5, 0.3, on_demand=1.0)
    assert await stored() == 3


async def test_agents_that_may_not_be_switched_are_left_alone(world: World) -> None:
    """Automatic switching off, disabled, offline; each alone is enough."""
    await world.market(0.5, 0.3)
    off, _ = await world.agent("off", auto_switch_enabled=False)
    disabled, _ = await world.agent("disabled", enabled=False)
    offline, stream = await world.agent("offline")
    await stream.say(goodbye=stream_pb.Goodbye())
    await stream.end()
    on, _ = await world.agent("on")

    async def gone() -> bool:
        return (await world.calls.agent(offline)).status == "offline"

    await eventually(gone)
    await world.loop()

    for agent_id in (off, disabled, offline):
        assert await world.decisions(agent_id) == []
    assert len(await world.switches(on)) == 1


async def test_an_agent_with_an_open_switch_or_an_emergency_is_left_alone(world: World) -> None:
    """Neither is disturbed by what the market does meanwhile."""
    await world.market(0.5, 0.3, 0.4)
    switching, _ = await world.agent("switching")
    await world.issue(switching, "spot", target_pool_id=C)
    fleeing, stream = await world.agent("fleeing")
    notice: Any = stream_pb.Notice(kind=stream_pb.Notice.KIND_REBALANCE)
    assert await stream.report(notice=notice) == ""

    await world.loop()

    assert await world.decisions(switching) == []
    assert await world.decisions(fleeing) == []
    assert len(await world.switches(switching)) == 1


async def test_two_loops_at_once_order_a_switch_once(world: World, clock: FakeClock) -> None:
    """Whatever both of them have read before."""
    await world.market(0.5, 0.3)
    agents = [(await world.agent(f"chat-{n}"))[0] for n in range(3)]
    async with running(world.plane.database_url, clock) as other:
        await asyncio.gather(
            *(world.loop(plane) for plane in (world.plane, other, world.plane, other))
        )
    for agent_id in agents:
        assert len(await world.switches(agent_id)) == 1
        executed = [d for d in await world.decisions(agent_id) if d["outcome"] == "executed"]
        assert len(executed) == 1


async def test_what_an_agent_switched_counts_by_day(world: World, clock: FakeClock) -> None:
    """The fourth switch of a day is held back, and allowed the day after."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent()
    for n in range(3):
        await world.owner(
            "INSERT INTO switches (tenant_id, id, agent_id, trigger, cause, initiated_at,"
            " created_at) VALUES ($1, gen_random_uuid(), $2, 'MANUAL', 'switch', $3, $3)",
            world.hand.tenant.id,
            agent_id,
            world.now - timedelta(hours=n + 1),
        )
    assert await world.loop() == 0
    (row,) = await world.decisions(agent_id)
    assert row["outcome"] == "blocked"

    clock.advance(timedelta(hours=24))
    await world.market(0.5, 0.3)
    await world.owner(
        "UPDATE agents SET status = 'online', updated_at = now() WHERE id = $1", agent_id
    )
    await world.loop()
    assert len(await world.switches(agent_id)) == 1


async def test_the_loop_needs_no_query_per_agent(world: World) -> None:
    """As many statements for five agents as for one, when there is nothing to order."""
    await world.market(0.5, 0.49)
    db = await Database.open(world.plane.database_url, size=1)
    seen: list[str] = []
    async with db.connection(ALL_TENANTS) as conn:
        conn.add_query_logger(lambda record: seen.append(record.query))
    clock, wakeups = world.plane.server.kernel.clock, world.plane.server.kernel.wakeups
    loop = DecisionLoop(
        db, Panel(db, clock, wakeups, "rules"), Ledger(db, wakeups), lambda _agent: None
    )
    await loop.run_once(world.now)
    counts = []
    for batch in (1, 2, 4):  # in the first the driver learns what types there are
        for n in range(batch):
            await world.agent(f"chat-{batch}-{n}")
        seen.clear()
        await loop.run_once(world.now + timedelta(minutes=3))
        counts.append(len(seen))
    await db.close()

    assert len(await world.owner("SELECT FROM decisions")) == 7
    assert counts[1] == counts[2]
    assert counts[1] < 20
