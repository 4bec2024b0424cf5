"""Hard stops: whom they hold, at once and everywhere, and when they end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from spotplane.v1 import agent_pb2, agent_pb2_grpc

from tests.spending.world import World, trailers
from tests.support.plane import Tenant
from tests.tenants.api import admin, holder, outcome

pytestmark = pytest.mark.asyncio(loop_scope="module")

STOPPED = {"BUDGET_EXCEEDED": 10}
FREE = {"OK": 10}


async def used_up(world: World, **settings: Any) -> tuple[Tenant, Any]:
    """A tenant that a budget stops; both servers had its key in memory before."""
    tenant = await world.plane.tenant()
    if settings.pop("of_key", False):
        settings["api_key_id"] = tenant.key_id
    budget = await world.create(tenant, hard_stop=True, **settings)
    assert await world.tries(tenant.key) == await world.tries(tenant.key, world.plane) == FREE
    await world.spend(tenant, 1000, key_id=tenant.key_id)
    await world.look()
    return tenant, budget


async def test_stop_holds_at_once_on_the_other_server(world: World) -> None:
    """Not one nano before, and for every call that starts after it."""
    tenant = await world.plane.tenant()
    budget = await world.create(tenant, hard_stop=True)
    await world.spend(tenant, 999)
    await world.look()
    assert await world.tries(tenant.key) == FREE

    await world.spend(tenant, 1)
    await world.look()

    assert await world.tries(tenant.key) == await world.tries(tenant.key, world.plane) == STOPPED
    assert (await world.get(budget)).state == "stopped"
    assert [kind for kind, _ in await world.told(budget)].count("stopped") == 1


async def test_what_a_stop_spares(world: World) -> None:
    """Reads, what must be billed, the end of a key, the fleet, administrators."""
    tenant, _budget = await used_up(world)
    spare = await world.plane.key(tenant.id)
    caller = holder(world.second, tenant.key)

    assert await outcome(caller("ListOwnApiKeys")) == "OK"
    assert await outcome(caller("RevokeOwnApiKey", key_id=spare.id)) == "OK"
    await world.spend(tenant, 5)
    registered = await agent_pb2_grpc.AgentServiceStub(world.second.channel).Register(
        agent_pb2.RegisterRequest(
            logical_agent_id="chat",
            instance_id="i-1",
            instance_type="g5.xlarge",
            region="us-east-1",
            az="us-east-1a",
        ),
        metadata=tenant.metadata,
    )
    assert registered.agent_id
    assert await outcome(admin(world.second)("UpdateTenant", id=tenant.id, name="x")) == "OK"
    assert await outcome(caller("RotateOwnApiKey", key_id=tenant.key_id)) == "BUDGET_EXCEEDED"


async def test_refusal_says_which_budget_and_when_to_come_again(world: World) -> None:
    """In an hour at the latest, as somebody may raise the limit."""
    tenant, budget = await used_up(world)

    said = await trailers(holder(world.second, tenant.key)("CreateOwnApiKey"))

    end = budget.period_end.ToDatetime().isoformat()
    assert said["x-spotplane-http-status"] == "429"
    assert f"a spend budget is used up until {end}Z" in said["x-spotplane-error"]
    assert '"type":"rate_limit_error"' in said["x-spotplane-error"]
    assert 1 <= int(said["retry-after"]) <= 3600


@pytest.mark.parametrize("change", ["raised", "unset", "deleted"])
async def test_stop_ends_with_the_change_that_lifts_it(world: World, change: str) -> None:
    """In its transaction, on both servers."""
    tenant, budget = await used_up(world)
    assert await world.tries(tenant.key) == STOPPED

    if change == "raised":
        assert (await world.update(budget, limit_nanos=1001)).state == "alerting"
    elif change == "unset":
        assert (await world.update(budget, hard_stop=False)).state == "exceeded"
    else:
        await world.call("DeleteBudget", tenant_id=tenant.id, id=budget.id)

    assert await world.tries(tenant.key) == await world.tries(tenant.key, world.plane) == FREE
    await world.look()
    assert (await world.told(budget))[-1] == ("resumed", None)


async def test_limit_that_is_set_below_what_was_used_stops_at_once(world: World) -> None:
    """And a new budget does too."""
    tenant = await world.plane.tenant()
    budget = await world.create(tenant, hard_stop=True)
    await world.spend(tenant, 10)
    assert await world.tries(tenant.key) == FREE

    assert (await world.update(budget, limit_nanos=10)).state == "stopped"
    assert await world.tries(tenant.key) == STOPPED
    await world.update(budget, limit_nanos=11)
    assert await world.tries(tenant.key) == FREE
    made = await world.create(tenant, limit_nanos=1, hard_stop=True)
    assert made.state == "stopped"
    assert await world.tries(tenant.key) == STOPPED


async def test_budget_of_a_key_stops_that_key_and_its_successor_only(world: World) -> None:
    """Rotating does not get away from it, other keys go on."""
    tenant, _budget = await used_up(world, of_key=True)
    other = await world.plane.key(tenant.id, rate_limit_rpm=1000, concurrency_limit=100)

    new = await admin(world.plane)("RotateApiKey", key_id=tenant.key_id)

    assert await world.tries(tenant.key) == await world.tries(new.key) == STOPPED
    assert await world.tries(other.key) == FREE


async def test_longest_of_several_stops_counts(world: World) -> None:
    """One that never ends outlasts the day's."""
    tenant, _budget = await used_up(world)
    await world.create(tenant, limit_nanos=1, period="total", hard_stop=True)

    said = await trailers(holder(world.second, tenant.key)("CreateOwnApiKey"))

    assert "until its limit is raised" in said["x-spotplane-error"]
    assert said["retry-after"] == "3600"


@pytest.mark.parametrize("period", ["day", "month"])
async def test_stop_ends_with_its_period(world: World, period: str) -> None:
    """By the clock alone, before any job has run; told of once, and the next one stops anew."""
    tenant, budget = await used_up(world, period=period)
    end = budget.period_end.ToDatetime(tzinfo=world.clock.now().tzinfo)
    world.clock.advance(end - world.clock.now() - timedelta(minutes=10))
    assert await world.tries(tenant.key) == STOPPED

    _reach(world, end)
    assert await world.tries(tenant.key) == await world.tries(tenant.key, world.plane) == FREE

    await world.look()
    standing = await world.get(budget)
    assert (standing.spent_nanos, standing.state) == (0, "ok")
    assert standing.period_start == budget.period_end
    assert (await world.told(budget))[-1] == ("resumed", None)
    await world.spend(tenant, 1000)
    await world.look()
    assert await world.tries(tenant.key) == STOPPED
    kinds = [kind for kind, _ in await world.told(budget)]
    assert (kinds.count("exceeded"), kinds.count("stopped"), kinds.count("resumed")) == (2, 2, 1)


def _reach(world: World, end: datetime) -> None:
    world.clock.advance(max(end - world.clock.now(), timedelta()))
