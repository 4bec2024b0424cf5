"""Legacy API of instances: lists, launches, terminations, cleanups and logs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fleet.world import POOLS, REGION, TYPE, ZONES, World
from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.support.clock import FakeClock


@pytest.fixture
async def world(field: Field, clock: FakeClock) -> World:
    """The default tenant with one agent on spot, and prices."""
    made = World(field.plane, field.tenant, clock)
    await made.prices()
    return made


async def agent(world: World) -> str:
    """The usual agent."""
    return await world.start("i-old", name="web")


def ids(client: str, *paths: str) -> list[str]:
    """Return the paths of a client."""
    return [f"/api/client/{client}{path}" for path in paths]


@covers("24", "good")
async def test_instances_of_a_client_are_a_bare_array_primary_first(
    field: Field, world: World
) -> None:
    agent_id = await agent(world)
    await world.report(agent_id)

    reply = await field.get(f"/api/client/{field.tenant.id}/instances")

    switched = reply[0].pop("lastSwitch")
    assert switched.endswith("Z")
    assert reply[0] == {
        "id": "i-new",
        "type": TYPE,
        "region": REGION,
        "az": ZONES[1],
        "mode": "spot",
        "poolId": POOLS[1],
        "spotPrice": 0.015,
        "onDemandPrice": 0.0416,
        "isActive": True,
        "instanceStatus": "running_primary",
        "isPrimary": True,
        "agentId": agent_id,
    }
    assert (reply[1]["id"], reply[1]["instanceStatus"], reply[1]["isActive"]) == (
        "i-old",
        "zombie",
        False,
    )


@covers("24", "good")
async def test_instances_are_filtered_searched_and_paged(field: Field, world: World) -> None:
    agent_id = await agent(world)
    await world.report(agent_id)
    await world.start("i-batch", name="Batch", mode="ondemand", az=ZONES[2])
    base = f"/api/client/{field.tenant.id}/instances"

    async def found(query: str) -> list[str]:
        return sorted(item["id"] for item in await field.get(base + query))

    assert await found("?status=all&mode=&search=") == ["i-batch", "i-new", "i-old"]
    assert await found("?status=active") == ["i-batch", "i-new"]
    assert await found("?status=terminated") == ["i-old"]
    assert await found("?mode=ondemand") == ["i-batch"]
    assert await found("?search=bAtC") == ["i-batch"]
    async with field.send("GET", f"{base}?limit=2") as response:
        first = await response.json()
        assert response.headers["X-Total-Count"] == "3"
        cursor = response.headers["X-Next-Cursor"]
    async with field.send("GET", base, params={"limit": "2", "cursor": cursor}) as response:
        rest = await response.json()
        assert "X-Next-Cursor" not in response.headers
    assert sorted(i["id"] for i in first + rest) == ["i-batch", "i-new", "i-old"]
    assert [i["isPrimary"] for i in first + rest] == [True, True, False]


@covers("24", "bad")
async def test_unknown_filter_of_instances_is_refused(field: Field, world: World) -> None:
    path = f"/api/client/{field.tenant.id}/instances?status=gone"
    reply = await field.refused("VALIDATION_ERROR", "GET", path, status=400)
    assert reply["details"][0]["field"] == "status"


@covers("24 59 62 X19", "foreign")
async def test_another_client_is_one_that_does_not_exist(field: Field, world: World) -> None:
    await agent(world)
    for client in (field.tenant.id, UNKNOWN_ID):
        for path in ids(
            client, "/instances", "/switch-history", "/switches", "/export/switch-history"
        ):
            await field.refused("NOT_FOUND", "GET", path, by=field.foreign, status=404)


@covers("6", "good")
async def test_instances_of_all_clients(field: Field, world: World) -> None:
    agent_id = await agent(world)
    other = World(field.plane, field.foreign, world.clock)
    await other.start("i-theirs", name="theirs")

    reply = await field.get("/api/admin/instances?search=WEB&status=active", by=ADMIN)
    everything = await field.get("/api/admin/instances", by=ADMIN)
    theirs = await field.get(f"/api/admin/instances?client_id={field.foreign.id}", by=ADMIN)

    (item,) = reply["instances"]
    assert item.pop("installedAt").endswith("Z")
    assert item.pop("createdAt").endswith("Z")
    assert item == {
        "id": "i-old",
        "instanceId": "i-old",
        "clientId": field.tenant.id,
        "clientName": "Test",
        "agentId": agent_id,
        "region": REGION,
        "az": ZONES[0],
        "instanceType": TYPE,
        "currentMode": "spot",
        "currentPoolId": POOLS[0],
        "spotPrice": 0.02,
        "ondemandPrice": 0.0416,
        "isActive": True,
        "instanceStatus": "running_primary",
        "logicalAgentId": "web",
        "agentStatus": "online",
    }
    assert reply["total"] == 1
    assert reply["filters"] == {
        "status": "active",
        "mode": None,
        "region": None,
        "client_id": None,
        "search": "WEB",
    }
    assert [i["id"] for i in everything["instances"]] == ["i-theirs", "i-old"]
    assert [i["id"] for i in theirs["instances"]] == ["i-theirs"]


@covers("6 77", "foreign")
async def test_tenants_see_no_admin_routes(field: Field, world: World) -> None:
    await field.refused("FORBIDDEN", "GET", "/api/admin/instances", status=403)
    await field.refused(
        "FORBIDDEN", "POST", "/api/admin/bulk/execute", {"operation": "x"}, status=403
    )


@covers("6", "bad")
async def test_unknown_mode_is_refused(field: Field) -> None:
    reply = await field.refused(
        "VALIDATION_ERROR", "GET", "/api/admin/instances?mode=free", by=ADMIN, status=400
    )
    assert reply["details"][0]["field"] == "mode"


@covers("44", "good")
async def test_instances_to_terminate(field: Field, world: World) -> None:
    agent_id = await agent(world)
    await world.report(agent_id)
    path = f"/api/agents/{agent_id}/instances-to-terminate"
    assert await field.get(path) == {
        "instances": [],
        "auto_terminate_enabled": True,
        "terminate_wait_seconds": 300,
    }
    world.clock.advance(timedelta(seconds=300))

    reply = await field.get(path)

    (item,) = reply["instances"]
    assert item["seconds_waiting"] == item["seconds_since_marked"] >= 300
    assert list(item) == [
        "instance_id",
        "instance_type",
        "az",
        "reason",
        "seconds_waiting",
        "seconds_since_marked",
    ]
    assert (item["instance_id"], item["reason"]) == ("i-old", "zombie_timeout")


@covers("44 56 57 X7 X8 X13 X14", "foreign")
async def test_agents_of_others_are_unknown(field: Field, world: World) -> None:
    agent_id = await agent(world)
    reported: list[tuple[str, str, Any]] = [
        ("GET", "instances-to-terminate", None),
        ("POST", "switch-report", {"new_instance_id": "i-x"}),
        ("POST", "cleanup-report", {}),
        ("POST", "register-instance", machine()),
        ("POST", "termination-report", {"instance_id": "i-old", "success": True}),
        ("POST", "instance-launched", {"instance_id": "i-x"}),
        ("POST", "instance-terminated", {"instance_id": "i-old"}),
    ]
    for named in (agent_id, UNKNOWN_ID, "not-an-id"):
        for method, route, body in reported:
            path = f"/api/agents/{named}/{route}"
            await field.refused("NOT_FOUND", method, path, body, by=field.foreign, status=404)


@covers("X8", "good")
async def test_termination_report(field: Field, world: World) -> None:
    agent_id = await agent(world)
    await world.report(agent_id)
    path = f"/api/agents/{agent_id}/termination-report"

    failed = await field.post(path, {"instance_id": "i-old", "success": False, "error": "busy"})
    done = await field.post(path, {"instance_id": "i-old", "success": True})
    assert await field.post(path, {"instance_id": "i-old", "success": True}) == done

    assert failed == {"success": True, "message": "it will be asked for again"}
    assert done == {"success": True, "message": "the instance has ended"}
    assert (await world.instances())["i-old"] == "terminated"


@covers("X8", "good")
async def test_termination_report_in_the_form_of_a_notice(field: Field, world: World) -> None:
    agent_id = await agent(world)
    path = f"/api/agents/{agent_id}/termination-report"

    notice = await field.post(path, {"notice_type": "TERMINATION", "cloud_instance_id": "i-old"})
    past = await field.post(path, {"termination_reason": "spot", "instance_id": "i-old"})

    assert {"success", "message", "new_instance_id", "action"} <= set(notice)
    assert past == {"success": True}
    assert (await world.instances())["i-old"] == "terminated"


@covers("X8 X14", "bad")
async def test_termination_report_needs_an_instance_and_an_outcome(
    field: Field, world: World
) -> None:
    agent_id = await agent(world)
    base = f"/api/agents/{agent_id}"
    bad = {"instance_id": "i-old"}
    await field.refused("VALIDATION_ERROR", "POST", f"{base}/termination-report", bad, status=400)
    await field.refused("VALIDATION_ERROR", "POST", f"{base}/instance-terminated", {}, status=400)
    unknown = {"instance_id": "i-nowhere", "success": True}
    await field.refused("NOT_FOUND", "POST", f"{base}/termination-report", unknown, status=404)


@covers("X14", "good")
async def test_instance_terminated(field: Field, world: World) -> None:
    agent_id = await agent(world)
    await world.report(agent_id)

    reply = await field.post(
        f"/api/agents/{agent_id}/instance-terminated",
        {"instance_id": "i-old", "request_id": "whatever", "confirmed_at": "2026-01-01T00:00:00"},
    )

    assert reply == {"success": True, "message": "the instance has ended"}
    assert (await world.instances())["i-old"] == "terminated"


@covers("X13", "good")
async def test_launch_of_a_switch_moves_the_agent(field: Field, world: World) -> None:
    agent_id = await agent(world)
    await world.force("i-old", target="pool", pool_id=POOLS[1])
    command = await world.lease(agent_id, "i-old")
    path = f"/api/agents/{agent_id}/instance-launched"
    body = {"temp_instance_id": "switch-1", "instance_id": "i-new", "request_id": command.id}

    reply = await field.post(path, body)

    assert reply == {"success": True, "instance_id": "i-new", "status": "running_primary"}
    assert await field.post(path, body) == reply
    assert await world.instances() == {"i-old": "zombie", "i-new": "running_primary"}
    (row,) = await world.switches()
    assert (str(row["command_id"]), row["new_pool_id"]) == (command.id, POOLS[1])


@covers("X13", "good")
async def test_launch_of_a_replica_binds_its_placeholder(field: Field, world: World) -> None:
    agent_id = await agent(world)
    made = await field.post(
        f"/api/agents/{agent_id}/create-emergency-replica",
        {"signal_type": "rebalance-recommendation"},
        status=201,
    )
    path = f"/api/agents/{agent_id}/instance-launched"
    body = {"temp_instance_id": made["instance_id"], "instance_id": "i-standby"}

    reply = await field.post(path, body)

    assert reply == {"success": True, "instance_id": "i-standby", "status": "ready"}
    assert await field.post(path, body) == reply
    assert (await world.instances())["i-standby"] == "running_replica"


@covers("X13", "bad")
async def test_launch_must_name_its_instance(field: Field, world: World) -> None:
    agent_id = await agent(world)
    await world.start("i-else", name="else")
    path = f"/api/agents/{agent_id}/instance-launched"
    await field.refused("VALIDATION_ERROR", "POST", path, {}, status=400)
    async with field.send("POST", path, {"instance_id": "i-else"}) as response:
        assert response.status == 409


def machine(**more: Any) -> dict[str, Any]:
    """Return an instance for manual registration."""
    return {
        "instance_id": "i-hand",
        "instance_type": TYPE,
        "region": REGION,
        "az": ZONES[2],
        "mode": "spot",
    } | more


@covers("X7", "good")
async def test_instance_registered_by_hand_serves(field: Field, world: World) -> None:
    agent_id = await agent(world)
    path = f"/api/agents/{agent_id}/register-instance"

    reply = await field.post(path, machine(spot_price=0.011, ondemand_price=0.05))
    spare = await field.post(path, machine(instance_id="i-spare", is_primary=False))

    assert reply == {
        "success": True,
        "message": "the instance serves",
        "instance_id": "i-hand",
        "is_primary": True,
    }
    assert (spare["is_primary"], spare["instance_id"]) == (False, "i-spare")
    assert await world.instances() == {
        "i-old": "zombie",
        "i-hand": "running_primary",
        "i-spare": "launching",
    }
    assert await world.switches() == []
    registered = [event["instance_id"] for event in await world.told("instance.registered")]
    assert registered == ["i-old", "i-hand", "i-spare"]


@covers("X7", "bad")
async def test_instance_registered_by_hand_must_be_complete(field: Field, world: World) -> None:
    agent_id = await agent(world)
    path = f"/api/agents/{agent_id}/register-instance"
    for missing in ("instance_id", "instance_type", "region", "az", "mode"):
        body = {name: value for name, value in machine().items() if name != missing}
        reply = await field.refused("VALIDATION_ERROR", "POST", path, body, status=400)
        assert reply["details"][0]["field"] == missing
    await world.report(agent_id)
    await world.ended(agent_id, "i-old")
    gone = machine(instance_id="i-old")
    await field.refused("INVALID_TRANSITION", "POST", path, gone, status=400)


@covers("57", "good")
async def test_cleanup_report(field: Field, world: World) -> None:
    agent_id = await agent(world)
    path = f"/api/agents/{agent_id}/cleanup-report"
    body = {
        "timestamp": world.clock.now().isoformat(),
        "snapshots": {
            "type": "snapshots",
            "deleted": ["snap-1", {"id": "snap-2"}],
            "failed": [{"id": "snap-3", "error": "in use"}],
            "cutoff_date": "2026-01-01",
        },
        "amis": {
            "type": "amis",
            "deleted_amis": ["ami-1"],
            "deleted_snapshots": ["snap-4"],
            "failed": [],
            "error": "stopped early",
        },
    }

    reply = await field.post(path, body)

    assert reply == {
        "success": True,
        "message": "the cleanup is recorded",
        "deleted_snapshots": 3,
        "deleted_amis": 1,
        "failed_count": 2,
    }
    assert await field.post(path, body) == reply
    (event,) = await world.told("cleanup.completed")
    assert (event["deleted_snapshots"], event["failed_count"]) == (3, 2)
    counts = {"amis_deleted": 2, "snapshots_deleted": 5, "errors": ["a", "b"]}
    assert (await field.post(path, counts))["failed_count"] == 2


@pytest.mark.parametrize(
    "timestamp", ["10000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"]
)
async def test_cleanup_at_an_instant_that_is_none_is_refused(
    field: Field, world: World, timestamp: str
) -> None:
    agent_id = await agent(world)
    path = f"/api/agents/{agent_id}/cleanup-report"
    body = {"timestamp": timestamp, "amis_deleted": 1}
    await field.refused("VALIDATION_ERROR", "POST", path, body, status=400)


@covers("57", "bad")
async def test_cleanup_counts_are_counts(field: Field, world: World) -> None:
    agent_id = await agent(world)
    path = f"/api/agents/{agent_id}/cleanup-report"
    reply = await field.refused("VALIDATION_ERROR", "POST", path, {"amis_deleted": -1}, status=400)
    assert reply["details"][0]["field"] == "amis_deleted"


@covers("69", "good")
async def test_logs_are_listed_newest_first(field: Field, world: World) -> None:
    agent_id = await agent(world)
    await world.report(agent_id)
    await world.ended(agent_id, "i-old", success=False, error="busy")
    await world.ended(agent_id, "i-old")

    reply = await field.get("/api/client/instances/i-old/logs")

    assert [list(item) for item in reply] == [
        [
            "timestamp",
            "eventType",
            "event_type",
            "status",
            "severity",
            "message",
            "fromValue",
            "toValue",
            "savings",
            "reason",
            "instanceType",
            "price",
            "metadata",
        ]
    ] * len(reply)
    assert [item["eventType"] for item in reply[:3]] == [
        "termination",
        "instance_termination_failed",
        "switch",
    ]
    assert {item["eventType"] for item in reply[3:]} == {"agent_registered", "instance_registered"}
    switch = reply[2]
    assert (switch["status"], switch["fromValue"], switch["toValue"]) == (
        "success",
        POOLS[0],
        POOLS[1],
    )
    assert (switch["savings"], switch["price"]) == (0.005, 0.015)
    assert reply[1]["reason"] == "busy"
    assert [
        i["eventType"] for i in await field.get("/api/client/instances/i-old/logs?limit=1")
    ] == ["termination"]


@covers("69", "bad")
async def test_limit_of_logs_is_bounded(field: Field, world: World) -> None:
    await agent(world)
    path = "/api/client/instances/i-old/logs?limit=1001"
    reply = await field.refused("VALIDATION_ERROR", "GET", path, status=400)
    assert reply["details"][0]["field"] == "limit"


@covers("28 29 69", "foreign")
async def test_instances_of_others_are_unknown(field: Field, world: World) -> None:
    await agent(world)
    for named in ("i-old", "i-nowhere"):
        base = f"/api/client/instances/{named}"
        for path in ("available-options", "logs"):
            await field.refused("NOT_FOUND", "GET", f"{base}/{path}", by=field.foreign, status=404)
        body = {"target": "ondemand"}
        await field.refused(
            "NOT_FOUND", "POST", f"{base}/force-switch", body, by=field.foreign, status=404
        )


@covers("77", "good")
async def test_bulk_execute(field: Field, world: World) -> None:
    agent_id = await agent(world)
    body = {"operation": "disable_agents", "agent_ids": [agent_id, UNKNOWN_ID], "confirm": True}

    reply = await field.post("/api/admin/bulk/execute", body, by=ADMIN)

    assert reply == {
        "operation": "disable_agents",
        "total": 2,
        "succeeded": 1,
        "failed": 1,
        "dry_run": False,
        "results": [
            {"agent_id": agent_id, "instance_id": None, "status": "success", "error": None},
            {
                "agent_id": UNKNOWN_ID,
                "instance_id": None,
                "status": "failed",
                "error": "no such agent",
            },
        ],
    }


@covers("77", "bad")
async def test_bulk_execute_must_be_meant(field: Field) -> None:
    at, named = "/api/admin/bulk/execute", {"agent_ids": [UNKNOWN_ID]}
    await field.refused(
        "CONFIRM_REQUIRED", "POST", at, named | {"operation": "enable_agents"}, by=ADMIN, status=400
    )
    await field.refused(
        "VALIDATION_ERROR", "POST", at, named | {"operation": "x"}, by=ADMIN, status=400
    )
