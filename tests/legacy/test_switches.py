"""Legacy API of switches: requests, reports of agents, and history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fleet.world import POOLS, REGION, TYPE, ZONES, World
from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.support.clock import FakeClock


@pytest.fixture
async def world(field: Field, clock: FakeClock) -> World:
    """The default tenant, and prices."""
    made = World(field.plane, field.tenant, clock)
    await made.prices()
    return made


async def agent(world: World) -> str:
    """An agent on spot in the first pool."""
    return await world.start("i-old", name="web")


@covers("28", "good")
async def test_options_are_pools_of_the_type_and_types_of_the_family(
    field: Field, world: World
) -> None:
    await agent(world)

    reply = await field.get("/api/client/instances/i-old/available-options")

    pools = [
        {"id": pool, "name": f"{TYPE} ({zone})", "az": zone, "instanceType": TYPE, "price": price}
        for pool, zone, price in zip(POOLS, ZONES, (0.02, 0.015, 0.0125), strict=True)
    ]
    assert reply == {
        "currentType": TYPE,
        "currentRegion": REGION,
        "currentAz": ZONES[0],
        "availablePools": pools,
        "pools": pools,
        "availableTypes": [TYPE],
        "instanceTypes": [TYPE],
    }


FORCE = "/api/client/instances/i-old/force-switch"


@covers("29", "good")
@pytest.mark.parametrize(
    ("body", "mode", "pool_id"),
    [
        ({"target": "ondemand"}, "ondemand", None),
        ({"target_type": "ondemand", "auto_terminate": True}, "ondemand", None),
        ({"target": "pool", "pool_id": POOLS[1]}, "spot", POOLS[1]),
        ({"target_pool": POOLS[1]}, "spot", POOLS[1]),
        # The cheapest other pool.
        ({"target": "spot"}, "spot", POOLS[2]),
    ],
)
async def test_forced_switch_is_queued(
    field: Field, world: World, body: dict[str, Any], mode: str, pool_id: str | None
) -> None:
    agent_id = await agent(world)

    reply = await field.post(FORCE, body)
    again = await field.post(FORCE, body)

    assert list(reply) == ["success", "command_id", "message"]
    assert (reply["success"], again["command_id"]) == (True, reply["command_id"])
    assert again["message"] == "the same switch is open already"
    command = await world.lease(agent_id, "i-old")
    assert (command.id, command.priority) == (reply["command_id"], 75)
    assert (command.target_mode, command.target_pool_id or None) == (mode, pool_id)
    assert command.terminate_wait_seconds == 300
    (event,) = await world.told("manual_switch.requested")
    assert event["target_mode"] == mode


@covers("29", "good")
@pytest.mark.parametrize(
    ("own", "asked", "wait"), [(True, False, 0), (False, True, 300), (False, None, 0)]
)
async def test_forced_switch_waits_to_end_the_old_instance_with_consent_only(
    field: Field, world: World, own: bool, asked: bool | None, wait: int
) -> None:
    agent_id = await agent(world)
    await world.configure(agent_id, auto_terminate_enabled=own)

    await field.post(FORCE, {"target": "ondemand", "auto_terminate": asked})

    assert (await world.lease(agent_id, "i-old")).terminate_wait_seconds == wait


@covers("29", "good")
async def test_forced_switch_to_where_the_agent_is_is_not_needed(
    field: Field, world: World
) -> None:
    agent_id = await agent(world)

    reply = await field.post(FORCE, {"target": "pool", "pool_id": POOLS[0]})

    assert reply == {
        "success": False,
        "command_id": None,
        "message": "the agent is there already",
        "current_mode": "spot",
        "current_pool_id": POOLS[0],
    }
    assert await world.lease(agent_id, "i-old") is None


@covers("29", "bad")
async def test_forced_switch_that_cannot_be_is_refused(field: Field, world: World) -> None:
    agent_id = await agent(world)
    refusals: list[tuple[dict[str, Any], str]] = [
        ({}, "VALIDATION_ERROR"),
        ({"target": "moon"}, "VALIDATION_ERROR"),
        ({"target": "pool"}, "POOL_REQUIRED"),
        ({"target": "pool", "pool_id": "t3.medium.nowhere"}, "UNKNOWN_POOL"),
    ]
    for body, code in refusals:
        await field.refused(code, "POST", FORCE, body, status=400)
    await field.post(FORCE, {"target": "ondemand"})
    await field.refused("SWITCH_IN_PROGRESS", "POST", FORCE, {"target_pool": POOLS[1]}, status=409)
    await world.lease(agent_id, "i-old")
    await world.report(agent_id)
    await field.refused("NOT_PRIMARY", "POST", FORCE, {"target": "ondemand"}, status=409)
    world.clock.advance(timedelta(minutes=11))
    path = "/api/client/instances/i-new/force-switch"
    await field.refused("NO_POOL_AVAILABLE", "POST", path, {"target": "spot"}, status=400)


@covers("28", "bad")
async def test_options_of_an_unknown_instance(field: Field) -> None:
    path = "/api/client/instances/i-nowhere/available-options"
    await field.refused("NOT_FOUND", "GET", path, status=404)


def shapes(world: World) -> dict[str, dict[str, Any]]:
    """Return the three formats in which agents report the same switch."""
    begun = world.clock.now() - timedelta(seconds=100)

    def at(seconds: int) -> str:
        return (begun + timedelta(seconds=seconds)).isoformat()

    def end(name: str, zone: int) -> dict[str, Any]:
        return {
            "instance_id": name,
            "instance_type": TYPE,
            "region": REGION,
            "az": ZONES[zone],
            "ami_id": "ami-1",
            "mode": "spot",
            "pool_id": POOLS[zone],
        }

    ends = {"old_instance": end("i-old", 0), "new_instance": end("i-new", 1)}
    prices = {"on_demand": 0.0416, "old_spot": 0.03, "new_spot": 0.01}
    return {
        "a": ends
        | {
            "snapshot": {"used": True},
            "prices": prices,
            "timing": {
                "switch_initiated_at": at(0),
                "new_instance_launched_at": at(20),
                "new_instance_ready_at": at(60),
                "traffic_switched_at": at(65),
                "old_instance_terminated_at": at(62),
            },
            "trigger": "model",
        },
        "b": ends
        | {
            "pricing": prices,
            "timing": {
                "initiated_at": at(0),
                "ami_created_at": None,
                "instance_launched_at": at(20),
                "instance_ready_at": at(65),
                "old_terminated_at": at(62),
            },
            "trigger": "model",
        },
        "c": {
            "old_instance_id": "i-old",
            "new_instance_id": "i-new",
            "success": True,
            "initiated_at": at(0).removesuffix("+00:00"),
            "instance_launched_at": at(20),
            "instance_ready_at": at(60),
            "old_terminated_at": at(62),
            "total_duration_seconds": 60,
            "downtime_seconds": 3,
            "error_message": None,
        },
    }


@covers("56", "good")
@pytest.mark.parametrize("shape", ["a", "b", "c"])
async def test_switch_report_is_understood_in_each_of_its_shapes(
    field: Field, world: World, shape: str
) -> None:
    agent_id = await agent(world)
    path = f"/api/agents/{agent_id}/switch-report"
    body = shapes(world)[shape]

    reply = await field.post(path, body)

    assert list(reply) == ["success", "switch_id"]
    assert await field.post(path, body) == reply
    assert await world.instances() == {"i-old": "terminated", "i-new": "running_primary"}
    (row,) = await world.switches()
    assert (str(row["id"]), row["success"], row["downtime_seconds"]) == (
        reply["switch_id"],
        True,
        3,
    )
    assert row["duration_seconds"] == (65 if shape == "b" else 60)
    if shape != "c":
        assert row["trigger"] == "AUTOMATIC"
        assert row["savings_impact_nanousd"] == 20_000_000


@covers("56", "good")
async def test_failed_switch_report_changes_no_role(field: Field, world: World) -> None:
    agent_id = await agent(world)
    body = {"old_instance_id": "i-old", "success": False, "error_message": "no capacity"}

    reply = await field.post(f"/api/agents/{agent_id}/switch-report", body)

    assert reply["success"] is True
    assert await world.instances() == {"i-old": "running_primary"}
    (row,) = await world.switches()
    assert (str(row["id"]), row["error_message"]) == (reply["switch_id"], "no capacity")


@covers("56", "bad")
async def test_switch_report_must_name_the_new_instance(field: Field, world: World) -> None:
    agent_id = await agent(world)
    path = f"/api/agents/{agent_id}/switch-report"
    await field.refused("VALIDATION_ERROR", "POST", path, {}, status=400)
    body = {"new_instance_id": "i-new", "initiated_at": "yesterday"}
    await field.refused("VALIDATION_ERROR", "POST", path, body, status=400)


async def switched(field: Field, world: World) -> tuple[str, str]:
    """An agent that has switched, and the switch."""
    agent_id = await agent(world)
    body = shapes(world)["a"]
    reply = await field.post(f"/api/agents/{agent_id}/switch-report", body)
    return agent_id, reply["switch_id"]


@covers("59", "good")
async def test_switch_history(field: Field, world: World) -> None:
    _, switch_id = await switched(field, world)
    path = f"/api/client/{field.tenant.id}/switch-history"

    reply = await field.get(path)

    assert reply[0].pop("timestamp").endswith("Z")
    assert reply == [
        {
            "id": switch_id,
            "instanceId": "i-new",
            "oldInstanceId": "i-old",
            "newInstanceId": "i-new",
            "fromMode": "spot",
            "toMode": "spot",
            "fromPool": POOLS[0],
            "toPool": POOLS[1],
            "trigger": "model",
            "price": 0.01,
            "savingsImpact": 0.02,
            "downtimeSeconds": 3,
            "success": True,
        }
    ]
    assert len(await field.get(f"{path}?instance_id=i-old")) == 1
    assert await field.get(f"{path}?instance_id=i-else") == []


@covers("59 X19", "bad")
async def test_limits_of_the_history_are_bounded(field: Field) -> None:
    base = f"/api/client/{field.tenant.id}"
    for path in ("/switch-history?limit=101", "/switches?limit=501", "/switches?offset=-1"):
        await field.refused("VALIDATION_ERROR", "GET", base + path, status=400)


@covers("X19", "good")
async def test_switches_of_a_client(field: Field, world: World) -> None:
    agent_id, switch_id = await switched(field, world)

    reply = await field.get(f"/api/client/{field.tenant.id}/switches?limit=10&offset=0")

    assert reply["switches"][0].pop("initiated_at").endswith("Z")
    assert reply == {
        "switches": [
            {
                "id": switch_id,
                "agent_id": agent_id,
                "old_instance_id": "i-old",
                "new_instance_id": "i-new",
                "old_mode": "spot",
                "new_mode": "spot",
                "old_az": ZONES[0],
                "new_az": ZONES[1],
                "trigger_type": "model",
                "savings_impact": 0.02,
            }
        ],
        "total": 1,
    }
    past = await field.get(f"/api/client/{field.tenant.id}/switches?offset=1")
    assert (past["switches"], past["total"]) == ([], 1)


@covers("62", "good")
async def test_switch_history_is_exported(field: Field, world: World) -> None:
    path = f"/api/client/{field.tenant.id}/export/switch-history"
    header = (
        "Timestamp,Old Instance ID,New Instance ID,From Mode,To Mode,From Pool,To Pool,Trigger,"
        "Price ($),Savings Impact ($/hr)"
    )
    async with field.send("GET", path) as response:
        assert (await response.text()).split("\r\n") == [header, ""]
    await switched(field, world)

    async with field.send("GET", path) as response:
        rows = (await response.text()).split("\r\n")
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert (
            f"client_{field.tenant.id}_switch_history.csv"
            in response.headers["Content-Disposition"]
        )

    assert rows[0] == header
    _, *cells = rows[1].split(",")
    assert cells == [
        "i-old",
        "i-new",
        "spot",
        "spot",
        POOLS[0],
        POOLS[1],
        "model",
        "0.010000",
        "0.020000",
    ]
    reply = await field.get(f"{path}?format=json")
    assert [row["trigger"] for row in reply["rows"]] == ["model"]


@covers("62", "bad")
async def test_export_of_an_unknown_client(field: Field) -> None:
    path = f"/api/client/{UNKNOWN_ID}/export/switch-history"
    await field.refused("NOT_FOUND", "GET", path, status=404)
    await field.refused("NOT_FOUND", "GET", path, by=ADMIN, status=404)
