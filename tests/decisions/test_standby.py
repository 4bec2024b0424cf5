"""An engine that hedges gets its standby, uses it, and lets it go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spotplane_server.decisions import candidates
from spotplane_server.decisions.engine import Decision, Snapshot
from spotplane_server.decisions.engine_runners import InThread
from spotplane_server.decisions.engines.rules import BuiltInRules

from tests.decisions.world import B, C, World, panel_of
from tests.failover.world import tell
from tests.support.link import bind


class Hedging:
    """Wants a standby where it is told to, and serves where it is told to."""

    name, version, hedges = "hedging", "1", True

    def __init__(self) -> None:
        self.standby: str | None = B
        self.target: str | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        decision = candidates.stay(snapshot, 0.9, "as told")
        target = next((p for p in snapshot.pools if p.id == self.target), None)
        if target is not None and target.id != snapshot.pool_id:
            decision = candidates.switch(snapshot, target, 0.9, "as told", "risk")
        return replace(decision, standby=self.standby)


async def seated(world: World) -> Hedging:
    """Let it decide."""
    engine = Hedging()
    panel = panel_of(world.plane)
    await panel.refresh()
    panel.judge.put(InThread("installed", engine))
    return engine


async def replicas(world: World, agent_id: str) -> list[Any]:
    """The agent's replicas, oldest first."""
    return await world.owner(
        "SELECT * FROM replicas WHERE agent_id = $1 ORDER BY created_at", agent_id
    )


async def test_a_standby_is_asked_for_once_and_moved_with_the_engines_mind(world: World) -> None:
    """Let go in one run, asked for elsewhere in the next."""
    await world.market(0.5, 0.49, 0.48)
    agent_id, _ = await world.agent()
    engine = await seated(world)
    for _ in range(2):
        await world.loop()
    (first,) = await replicas(world, agent_id)
    assert (first["pool_id"], first["created_by"], first["status"]) == (B, "engine", "launching")

    engine.standby = C
    for _ in range(2):
        await world.loop()
    old, new = await replicas(world, agent_id)
    assert (old["status"], new["pool_id"], new["status"]) == ("terminated", C, "launching")

    engine.standby = None
    await world.loop()
    assert {row["status"] for row in await replicas(world, agent_id)} == {"terminated"}


async def test_a_switch_to_a_standby_that_is_ready_is_its_promotion(world: World) -> None:
    """At once, counted as an automatic switch, and no command is needed."""
    await world.market(0.5, 0.49)
    agent_id, stream = await world.agent()
    engine = await seated(world)
    await world.loop()
    (replica,) = await replicas(world, agent_id)
    instance_id = await bind(stream, str(replica["id"]))
    await tell(stream, str(replica["id"]), "ready")

    engine.target = B
    await world.loop()

    assert (await world.calls.agent(agent_id)).instance_id == instance_id
    assert await world.switches(agent_id) == []
    (row,) = await world.owner("SELECT * FROM switches WHERE agent_id = $1", agent_id)
    assert (row["trigger"], row["new_pool_id"]) == ("AUTOMATIC", B)
    assert (await world.decisions(agent_id))[0]["outcome"] == "executed"


async def test_nobody_elses_replica_is_touched(world: World) -> None:
    """An emergency's or a user's is theirs."""
    await world.market(0.5, 0.49, 0.48)
    agent_id, _ = await world.agent()
    engine = await seated(world)
    await world.loop()
    await world.owner("UPDATE replicas SET created_by = 'user' WHERE agent_id = $1", agent_id)
    for wanted in (C, None):
        engine.standby = wanted
        await world.loop()
    (row,) = await replicas(world, agent_id)
    assert row["status"] == "launching"


async def test_without_automatic_switching_or_hedging_standbys_are_let_go(world: World) -> None:
    """Each alone is enough."""
    await world.market(0.5, 0.49)
    off, _ = await world.agent("off")
    on, _ = await world.agent("on")
    await seated(world)
    await world.loop()
    await world.calls.configure(off, auto_switch_enabled=False)
    await world.loop()
    assert [row["status"] for row in await replicas(world, off)] == ["terminated"]
    assert [row["status"] for row in await replicas(world, on)] == ["launching"]

    panel_of(world.plane).judge.put(InThread("rules", BuiltInRules()))
    await world.loop()
    assert [row["status"] for row in await replicas(world, on)] == ["terminated"]
