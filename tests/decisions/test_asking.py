"""Recommendations, switches by hand, and decisions that somebody asks for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
from spotplane.v1 import decision_pb2 as pb

from tests.decisions.world import DOLLAR, A, B, C, World
from tests.support.clock import FakeClock
from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.link import by_hand
from tests.support.plane import ADMIN, bearer, refused


async def test_a_recommendation_shows_what_the_loop_would_do(world: World) -> None:
    """And changes nothing."""
    await world.market(0.5, 0.3, 0.4)
    agent_id, _ = await world.agent()
    said = await world.recommend(agent_id)
    assert (said.decision_type, said.recommended_pool_id) == ("switch_to_spot", B)
    assert said.expected_savings_usd_per_hour == pytest.approx(0.2)
    assert said.will_auto_execute
    assert (said.current_pool.id, said.current_pool.name) == (A, f"{TYPE} ({ZONES[0]})")
    assert [pool.id for pool in said.alternative_pools] == [B, C]
    assert [gate.name for gate in said.gates] == [
        "price_fresh",
        "min_savings",
        "net_benefit",
        "risk",
        "dwell",
        "per_day",
        "per_week",
        "confidence",
    ]
    assert await world.decisions(agent_id) == []
    assert await world.switches(agent_id) == []


async def test_a_recommendation_is_had_whatever_the_settings(world: World) -> None:
    """But is not carried out by itself."""
    await world.market(0.5, 0.3)
    off, _ = await world.agent("off", auto_switch_enabled=False)
    disabled, _ = await world.agent("disabled", enabled=False)
    young, _ = await world.agent("young", min_pool_duration_hours=2)
    for agent_id in (off, disabled, young):
        said = await world.recommend(agent_id)
        assert (said.decision_type, said.will_auto_execute) == ("switch_to_spot", False)
    assert [gate.name for gate in said.gates if not gate.passed] == ["dwell"]


async def test_stale_prices_recommend_nothing(world: World) -> None:
    """Older than ten minutes is not known."""
    await world.market(0.5, 0.3, at=world.now - timedelta(minutes=11))
    agent_id, _ = await world.agent()
    said = await world.recommend(agent_id)
    assert (said.decision_type, said.confidence) == ("stay_spot", 0.5)
    assert not said.alternative_pools


async def test_a_switch_by_hand_is_ordered_once(world: World) -> None:
    """The same target again answers the open command; below 50 it is labelled automatic."""
    await world.market(0.5, 0.3, 0.4)
    agent_id, stream = await world.agent()
    first = await world.issue(agent_id, "spot", target_pool_id=B, reason="cheaper")
    again = await world.issue(agent_id, "spot", target_pool_id=B)
    assert (first.success, first.command_id) == (True, again.command_id)
    assert again.message != first.message
    (row,) = await world.switches(agent_id)
    assert (row["priority"], row["trigger"]) == (5, "AUTOMATIC")
    assert (await stream.hear("command")).command_id == first.command_id
    async with refused("SWITCH_IN_PROGRESS"):
        await world.issue(agent_id, "spot", target_pool_id=C, priority=10)


async def test_from_priority_50_on_a_switch_is_somebodys_will(world: World) -> None:
    """And takes the place of an automatic one that waits."""
    await world.market(0.5, 0.3, 0.4)
    registered = await world.hand.register("i-1")
    await world.calls.configure(registered.agent_id, min_pool_duration_hours=0)
    automatic = await world.issue(registered.agent_id, "spot", target_pool_id=B)
    manual = await world.issue(registered.agent_id, "spot", target_pool_id=C, priority=50)
    found = {str(row["id"]): row for row in await world.switches(registered.agent_id)}
    assert found[automatic.command_id]["status"] == "cancelled"
    assert (found[manual.command_id]["trigger"], found[manual.command_id]["priority"]) == (
        "MANUAL",
        50,
    )


async def test_an_agent_that_is_there_already_is_not_switched(world: World) -> None:
    """No command, and no error."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent()
    said = await world.issue(agent_id, "spot", target_pool_id=A)
    assert (said.success, said.current_mode, said.current_pool_id) == (False, "spot", A)
    assert await world.switches(agent_id) == []


@pytest.mark.parametrize(
    ("config", "ask", "reason"),
    [
        ({"auto_switch_enabled": False}, {}, "AUTO_SWITCH_DISABLED"),
        ({"enabled": False}, {}, "AGENT_DISABLED"),
        ({}, {"target_mode": "reserved"}, "UNKNOWN_ENUM"),
        ({}, {"target_mode": ""}, "MISSING_FIELD"),
        ({}, {"target_mode": "spot"}, "POOL_REQUIRED"),
        ({}, {"target_mode": "spot", "target_pool_id": "nowhere"}, "UNKNOWN_POOL"),
        ({}, {"priority": 0}, "OUT_OF_RANGE"),
        ({}, {"priority": 101}, "OUT_OF_RANGE"),
        ({"min_pool_duration_hours": 2}, {}, "DWELL_NOT_REACHED"),
        ({"max_switches_per_day": 0}, {}, "SWITCH_LIMIT_REACHED"),
        ({"max_switches_per_week": 0}, {}, "SWITCH_LIMIT_REACHED"),
    ],
)
async def test_a_switch_by_hand_is_refused_with_its_reason(
    world: World, config: dict[str, Any], ask: dict[str, Any], reason: str
) -> None:
    """And nothing is ordered."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent(**config)
    wanted: dict[str, Any] = {"target_mode": "ondemand"} | ask
    async with refused(reason):
        await world.stub.IssueSwitch(
            pb.IssueSwitchRequest(agent_id=agent_id, **wanted),
            metadata=world.hand.metadata,
        )
    assert await world.switches(agent_id) == []


async def test_a_pool_of_another_type_is_no_target(world: World) -> None:
    """Even in the agent's region."""
    await world.market(0.5, 0.3)
    await world.owner(
        "INSERT INTO pools (id, instance_type, region, az, price_nanousd, price_observed_at,"
        " created_at) VALUES ('m5.large.' || $1, 'm5.large', $2, $1, 1, now(), now())",
        ZONES[1],
        REGION,
    )
    agent_id, _ = await world.agent()
    async with refused("UNKNOWN_POOL"):
        await world.issue(agent_id, "spot", target_pool_id=f"m5.large.{ZONES[1]}")


async def test_two_orders_at_once_are_one_switch(world: World) -> None:
    """One of two targets wins, the other is refused."""
    await world.market(0.5, 0.3, 0.4)
    agent_id, _ = await world.agent()
    results = await asyncio.gather(
        *(world.issue(agent_id, "spot", target_pool_id=pool) for pool in (B, C, B, C)),
        return_exceptions=True,
    )
    ordered = {r.command_id for r in results if isinstance(r, pb.IssueSwitchResponse)}
    assert len(ordered) == 1
    assert sum(isinstance(r, grpc.aio.AioRpcError) for r in results) == 2
    assert len(await world.switches(agent_id)) == 1


async def test_a_decision_may_be_asked_for_with_ones_own_prices(world: World) -> None:
    """They count for this answer, which is stored, and orders nothing."""
    await world.market(0.5, 0.49)
    agent_id, _ = await world.agent()
    said = await world.decide(
        agent_id,
        pricing=pb.DecidePricing(
            on_demand_price_nanousd=DOLLAR,
            spot_pools=[
                pb.DecidePool(pool_id=A, price_nanousd=DOLLAR // 2),
                pb.DecidePool(pool_id=C, az=ZONES[2], price_nanousd=DOLLAR // 5),
            ],
        ),
    )
    assert (said.recommended_action, said.recommended_pool_id) == ("switch", C)
    assert said.allowed
    (row,) = await world.decisions(agent_id)
    assert (str(row["id"]), row["cause"]) == (said.decision_id, "request")
    assert (row["target_pool_id"], row["command_id"]) == (C, None)
    assert await world.switches(agent_id) == []


async def test_a_decision_may_be_asked_for_with_little(world: World) -> None:
    """What is absent is the plane's own knowledge; impossible prices are no prices."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent()
    nothing = await world.decide(agent_id)
    assert (nothing.recommended_action, nothing.recommended_pool_id) == ("switch", B)
    odd = await world.decide(
        agent_id,
        pricing=pb.DecidePricing(spot_pools=[pb.DecidePool(pool_id=B, price_nanousd=-1)]),
    )
    assert odd.recommended_pool_id == B
    flat = await world.decide(
        agent_id,
        current_az=ZONES[0],
        instance=pb.DecideInstance(instance_type=TYPE),
        pricing=pb.DecidePricing(spot_pools=[pb.DecidePool(az=ZONES[1], price_nanousd=DOLLAR)]),
    )
    assert flat.recommended_action == "stay"


async def test_a_disabled_agent_is_told_to_stay(world: World) -> None:
    """And not allowed anything; so is one whose switch a gate holds."""
    await world.market(0.5, 0.3)
    disabled, _ = await world.agent("disabled", enabled=False)
    said = await world.decide(disabled)
    assert (said.recommended_action, said.allowed) == ("stay", False)
    young, _ = await world.agent("young", min_pool_duration_hours=2)
    said = await world.decide(young)
    assert (said.recommended_action, said.allowed) == ("switch", False)
    assert "dwell" in said.reason


async def test_an_agent_that_no_instance_serves_is_told_to_stay(world: World) -> None:
    """And is not switched by hand: there is nothing to switch."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent()
    await world.owner(
        "UPDATE instances SET status = 'terminated', terminated_at = now() WHERE agent_id = $1",
        agent_id,
    )
    said = await world.decide(agent_id)
    assert (said.recommended_action, said.recommended_mode) == ("stay", "unknown")
    assert (said.allowed, said.instance_id) == (False, "")
    (row,) = await world.decisions(agent_id)
    assert (str(row["id"]), row["instance_id"]) == (said.decision_id, None)
    async with refused("NOT_PRIMARY"):
        await world.issue(agent_id, "spot", target_pool_id=B)


async def test_what_another_tenant_or_agent_has_is_not_found(world: World) -> None:
    """By every call, whatever else it says."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent()
    async with by_hand(world.plane) as foreign:
        other = await world.hand.register("i-2", "other", issue_agent_token=True)
        for metadata in (foreign.metadata, bearer(other.agent_token)):
            for named in (agent_id, str(uuid4())):
                calls: list[tuple[Any, Any]] = [
                    (world.stub.GetRecommendation, pb.GetRecommendationRequest(agent_id=named)),
                    (
                        world.stub.IssueSwitch,
                        pb.IssueSwitchRequest(agent_id=named, target_mode="ondemand"),
                    ),
                    (world.stub.Decide, pb.DecideRequest(agent_id=named)),
                ]
                for call, request in calls:
                    async with refused("AGENT_NOT_FOUND"):
                        await call(request, metadata=metadata)
    assert await world.switches(agent_id) == []
    assert await world.decisions(agent_id) == []


async def test_a_tenants_page_shows_each_agent_with_its_last_decisions(
    world: World, clock: FakeClock
) -> None:
    """Five at most, newest first; another tenant's are not there."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent(min_pool_duration_hours=2)
    silent, _ = await world.agent("silent", auto_switch_enabled=False)
    for _ in range(6):
        await world.loop()
        clock.advance(timedelta(minutes=5))
        await world.market(0.5, 0.3)
    answer = await world.stub.ListAgentDecisions(
        pb.ListAgentDecisionsRequest(), metadata=world.hand.metadata
    )
    found = {agent.agent_id: agent for agent in answer.agents}
    assert set(found) == {agent_id, silent}
    times = [row.decided_at.ToDatetime() for row in found[agent_id].decisions]
    assert len(times) == 5
    assert times == sorted(times, reverse=True)
    assert {(d.type, d.outcome) for d in found[agent_id].decisions} == {("switch_spot", "blocked")}
    assert not found[silent].decisions

    async with by_hand(world.plane) as foreign:
        answer = await world.stub.ListAgentDecisions(
            pb.ListAgentDecisionsRequest(), metadata=foreign.metadata
        )
        assert not answer.agents
        async with refused("TENANT_MISMATCH"):
            await world.stub.ListAgentDecisions(
                pb.ListAgentDecisionsRequest(tenant_id=world.hand.tenant.id),
                metadata=foreign.metadata,
            )
    async with refused("TENANT_NOT_FOUND"):
        await world.stub.ListAgentDecisions(
            pb.ListAgentDecisionsRequest(tenant_id=str(uuid4())), metadata=ADMIN
        )
