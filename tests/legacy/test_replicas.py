"""Legacy API of replicas, for agents and dashboards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.legacy.standby import FAR_POOL, Standby, polling
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.link import jump, run_job

POOL = {
    "id": FAR_POOL,
    "name": f"{TYPE} ({ZONES[1]})",
    "instance_type": TYPE,
    "region": REGION,
    "az": ZONES[1],
}


@pytest.fixture
async def agent(field: Field) -> AsyncIterator[Standby]:
    """An agent that polls."""
    async with polling(field) as found:
        yield found


def shown(replica_id: str, **changed: Any) -> dict[str, Any]:
    """Return a replica of an agent's list, without instants."""
    return {
        "id": replica_id,
        "instance_id": f"manual-{replica_id[:8]}",
        "type": "manual",
        "status": "launching",
        "sync_status": "initializing",
        "sync_latency_ms": None,
        "state_transfer_progress": 0,
        "pool_id": FAR_POOL,
        "az": ZONES[1],
        "pool": POOL,
        "cost": {"hourly": 0.31, "total": 0},
        "created_by": "user",
        "ready_at": None,
        "terminated_at": None,
        "termination_confirmed": False,
        "age_seconds": 0,
        "is_active": True,
        "tags": {},
    } | changed


@covers("34 32 X9", "good")
async def test_manual_replica_is_listed_as_a_launch(agent: Standby) -> None:
    await agent.manual_mode()

    made = await agent.ask(tags={"team": "a"}, created_by="ops")

    replica_id = made["replica_id"]
    assert made == {
        "success": True,
        "replica_id": replica_id,
        "instance_id": f"manual-{replica_id[:8]}",
        "pool": POOL,
        "hourly_cost": 0.31,
        "status": "launching",
        "message": "replica is launching",
    }
    (listed,) = await agent.listed("launching")
    assert listed.pop("created_at").endswith("Z")
    assert listed == shown(replica_id, tags={"team": "a"}, created_by="ops")
    assert await agent.listed("terminated") == []
    one = await agent.field.get(f"{agent.replicas}/{replica_id}")
    assert list(one) == list((await agent.listed())[0])
    assert one["instance_id"] == listed["instance_id"]


@covers("34", "bad")
async def test_replica_that_may_not_be_is_refused(agent: Standby) -> None:
    refused = agent.field.refused
    await refused("MANUAL_REPLICA_DISABLED", "POST", agent.replicas, {}, status=400)
    await agent.manual_mode()
    for body, code in (
        ({"pool_id": "t9.nano.us-east-1a"}, "UNKNOWN_POOL"),
        ({"target_pool_id": FAR_POOL, "max_hourly_cost": 0.1}, "NO_POOL_AVAILABLE"),
        ({"exclude_zones": list(ZONES)}, "NO_POOL_AVAILABLE"),
        ({"max_hourly_cost": -1}, "VALIDATION_ERROR"),
        ({"created_by": "x" * 65}, "VALIDATION_ERROR"),
    ):
        await refused(code, "POST", agent.replicas, body, status=400)
    async with agent.field.plane.db.connection("*") as conn:
        await conn.execute(
            "INSERT INTO pools VALUES ('m9.big.us-east-1b', 'm9.big', $1, 'us-east-1b', 1, now(),"
            " now())",
            REGION,
        )
    body = {"pool_id": "m9.big.us-east-1b"}
    await refused("TYPE_MISMATCH", "POST", agent.replicas, body, status=400)

    await agent.ask()

    reply = await refused("REPLICA_LIMIT", "POST", agent.replicas, {}, status=400)
    assert (reply["current_count"], reply["max_allowed"]) == (1, 1)


@covers("34", "bad")
async def test_no_replica_is_created_for_an_offline_agent(
    agent: Standby,
) -> None:
    await agent.manual_mode()
    async with agent.field.plane.db.connection("*") as conn:
        await conn.execute("UPDATE agents SET status = 'offline'")

    await agent.field.refused("AGENT_OFFLINE", "POST", agent.replicas, {}, status=404)


@covers("34", "good")
async def test_instance_that_the_agent_launched_is_registered_once(agent: Standby) -> None:
    await agent.manual_mode()
    made = await agent.ask()
    body = {
        "instance_id": "i-2",
        "replica_type": "manual",
        "parent_instance_id": "i-1",
        "pool_id": FAR_POOL,
        "status": "launching",
    }

    first = await agent.field.post(agent.replicas, body, status=201)
    again = await agent.field.post(agent.replicas, body, status=201)

    assert first == again
    assert (first["replica_id"], first["instance_id"]) == (made["replica_id"], "i-2")
    assert first["status"] == "syncing"
    other = body | {"instance_id": "i-3"}
    await agent.field.refused("REPLICA_LIMIT", "POST", agent.replicas, other, status=400)
    assert await status_of(agent, "i-3") == "zombie"


@covers("34", "good")
async def test_instance_without_a_waiting_replica_gets_one(agent: Standby) -> None:
    await agent.manual_mode()
    body = {"instance_id": "i-2", "pool_id": FAR_POOL, "status": "ready"}

    made = await agent.field.post(agent.replicas, body, status=201)

    assert (made["status"], made["pool"]) == ("ready", POOL)
    assert await status_of(agent, "i-2") == "running_replica"


@covers("31", "good")
async def test_dashboard_shows_live_replicas_beside_their_primaries(agent: Standby) -> None:
    replica_id = await agent.standing()

    (row,) = await agent.field.get(f"/api/client/{agent.field.tenant.id}/replicas")

    for instant in ("created_at", "ready_at"):
        assert row["replica"].pop(instant).endswith("Z")
    row["replica"]["cost"]["total"] = round(row["replica"]["cost"]["total"], 2)
    assert row == {
        "agentId": agent.id,
        "primary": {
            "instanceId": "i-1",
            "instanceType": TYPE,
            "region": REGION,
            "az": ZONES[0],
            "mode": "spot",
        },
        "replica": {
            "id": replica_id,
            "instanceId": "i-2",
            "type": "manual",
            "status": "ready",
            "sync_status": "synced",
            "sync_latency_ms": None,
            "state_transfer_progress": 100,
            "pool": POOL,
            "cost": {"hourly": 0.31, "total": 0},
            "created_by": "user",
            "terminated_at": None,
            "is_active": True,
        },
    }
    assert await agent.field.get(f"/api/client/{agent.field.tenant.id}/replicas", by=ADMIN)


@covers("33", "good")
async def test_agent_reads_its_replica_configuration(agent: Standby) -> None:
    await agent.manual_mode()

    assert await agent.field.get(f"{agent.at}/replica-config") == {
        "enabled": False,
        "count": 0,
        "manual_replica_enabled": True,
        "preferred_replica_pools": [FAR_POOL, f"{TYPE}.{ZONES[2]}"],
        "min_sync_percentage": 100,
    }


@covers("37 38 39", "good")
async def test_agent_binds_synchronizes_and_is_ready(agent: Standby) -> None:
    await agent.manual_mode()
    replica_id = (await agent.ask())["replica_id"]

    for _ in range(2):
        assert await agent.bind(replica_id) == {
            "success": True,
            "replica_id": replica_id,
            "instance_id": "i-2",
            "status": "syncing",
        }
    body = {"sync_status": "syncing", "sync_latency_ms": 12, "state_transfer_progress": 40.5}
    path = f"{agent.replicas}/{replica_id}/sync-status"
    assert await agent.field.post(path, body) == {
        "success": True,
        "message": "replica is syncing",
    }
    (listed,) = await agent.listed()
    assert (listed["sync_latency_ms"], listed["state_transfer_progress"]) == (12, 40.5)
    for _ in range(2):
        done = {"state_transfer_progress": 100}
        assert (await agent.field.post(path, done))["message"] == "replica is ready"
        assert await agent.tell(replica_id, "ready") == {
            "success": True,
            "replica_id": replica_id,
            "status": "ready",
        }
    (listed,) = await agent.listed()
    assert (listed["status"], listed["state_transfer_progress"]) == ("ready", 100)
    assert listed["ready_at"]
    assert await agent.listed("launching") == []


@covers("37", "bad")
async def test_another_instance_for_a_bound_replica_is_kept_with_a_warning(
    agent: Standby,
) -> None:
    replica_id = await agent.standing()
    path = f"{agent.replicas}/{replica_id}"

    for _ in range(2):
        await agent.field.refused(
            "REPLICA_ALREADY_BOUND", "PUT", path, {"instance_id": "i-3"}, status=409
        )

    assert await status_of(agent, "i-3") == "zombie"
    assert (await agent.listed())[0]["instance_id"] == "i-2"
    assert await events_of(agent, "instance.extra") == ["i-3"]
    await agent.field.refused("VALIDATION_ERROR", "PUT", path, {}, status=400)


@covers("37 56 X13", "bad")
@pytest.mark.parametrize("word", ["manual", "replica", "emergency"])
async def test_a_placeholder_is_no_instance(agent: Standby, word: str) -> None:
    await agent.manual_mode()
    replica_id = (await agent.ask())["replica_id"]
    claimed = {"instance_id": f"{word}-{replica_id[:8]}"}
    moved = {"old_instance_id": await agent.primary(), "new_instance_id": claimed["instance_id"]}

    for method, path, body in (
        ("PUT", f"{agent.replicas}/{replica_id}", claimed),
        ("POST", f"{agent.at}/instance-launched", claimed),
        ("POST", f"{agent.at}/switch-report", moved),
    ):
        await agent.field.refused("VALIDATION_ERROR", method, path, body, status=400)

    (listed,) = await agent.listed("launching")
    assert listed["id"] == replica_id


@covers("38 39", "bad")
async def test_states_that_lead_nowhere_are_refused(agent: Standby) -> None:
    replica_id = await agent.standing()
    at = f"{agent.replicas}/{replica_id}"
    refused = agent.field.refused
    await refused("INVALID_TRANSITION", "POST", f"{at}/status", {"status": "launching"}, status=400)
    for body in ({}, {"status": "promoted"}, {"status": "gone"}):
        await refused("VALIDATION_ERROR", "POST", f"{at}/status", body, status=400)
    for name, value in (("state_transfer_progress", 101), ("sync_status", "half")):
        reply = {name: value}
        await refused("VALIDATION_ERROR", "POST", f"{at}/sync-status", reply, status=400)
    await agent.tell(replica_id, "terminated")

    await refused("INVALID_TRANSITION", "POST", f"{at}/status", {"status": "ready"}, status=400)

    reply = await agent.field.post(f"{at}/sync-status", {"state_transfer_progress": 100})
    assert reply["success"] is True
    assert (await agent.field.get(at))["status"] == "terminated"


@covers("35", "good")
async def test_repeated_promotion_returns_the_same_response(agent: Standby) -> None:
    replica_id = await agent.standing()
    path = f"{agent.replicas}/{replica_id}/promote"

    first = await agent.field.post(path, {"wait_for_sync": True})

    successor = first["new_replica_id"]
    assert first.pop("switch_time").endswith("Z")
    assert first == {
        "success": True,
        "message": "i-2 is the primary now",
        "new_instance_id": "i-2",
        "old_instance_id": "i-1",
        "demoted": False,
        "new_replica_id": successor,
    }
    again = await agent.field.post(path, {})
    assert {**again, "switch_time": None} == {**first, "switch_time": None}
    assert await agent.primary() == "i-2"
    assert await status_of(agent, "i-1") == "zombie"
    assert [r["id"] for r in await agent.listed("launching")] == [successor]
    assert (await agent.tell(replica_id, "ready"))["status"] == "promoted"


@covers("35", "good")
async def test_demoted_primary_stands_by_next(agent: Standby) -> None:
    replica_id = await agent.standing()

    for _ in range(2):
        reply = await agent.field.post(
            f"{agent.replicas}/{replica_id}/promote", {"demote_old_primary": True}
        )
        assert (reply["demoted"], reply["new_replica_id"]) == (True, None)
    (standing,) = await agent.listed()
    assert (standing["instance_id"], standing["status"]) == ("i-1", "ready")
    assert await status_of(agent, "i-1") == "running_replica"
    back = await agent.field.post(f"{agent.replicas}/{standing['id']}/promote", {})

    assert (back["new_instance_id"], back["old_instance_id"]) == ("i-1", "i-2")
    assert await agent.primary() == "i-1"


@covers("35", "good")
async def test_consent_to_end_the_old_primary_is_kept_with_it(agent: Standby) -> None:
    replica_id = await agent.standing()
    body = {"auto_terminate_old_primary": True, "create_new_replica": False}

    reply = await agent.field.post(f"{agent.replicas}/{replica_id}/promote", body)

    assert reply["new_replica_id"] is None
    async with agent.field.plane.db.connection("*") as conn:
        consent = await conn.fetchval("SELECT terminate_consent FROM instances WHERE id = 'i-1'")
    assert consent is True


@covers("35", "bad")
async def test_placeholder_is_never_promoted(agent: Standby) -> None:
    await agent.manual_mode()
    replica_id = (await agent.ask())["replica_id"]
    path = f"{agent.replicas}/{replica_id}/promote"
    refused = agent.field.refused
    await refused("REPLICA_NOT_PROMOTABLE", "POST", path, {}, status=400)
    await agent.tell(replica_id, "ready")
    await refused("REPLICA_NOT_PROMOTABLE", "POST", path, {}, status=400)
    await agent.bind(replica_id)
    async with agent.field.plane.db.connection("*") as conn:
        await conn.execute("UPDATE replicas SET status = 'syncing'")

    await refused("REPLICA_NOT_PROMOTABLE", "POST", path, {"wait_for_sync": True}, status=400)

    assert await agent.primary() == "i-1"


@covers("36", "good")
async def test_end_has_two_steps(agent: Standby) -> None:
    replica_id = await agent.standing()

    reply = await agent.field.delete(f"{agent.replicas}/{replica_id}")

    successor = reply["new_replica_id"]
    assert reply.pop("terminated_at").endswith("Z")
    assert reply == {
        "success": True,
        "message": "the replica is marked terminated",
        "replica_id": replica_id,
        "new_replica_id": successor,
    }
    assert [r["id"] for r in await agent.listed("launching")] == [successor]
    (owed,) = await agent.listed("terminated")
    assert (owed["id"], owed["instance_id"], owed["is_active"]) == (replica_id, "i-2", False)
    assert await status_of(agent, "i-2") == "terminating"
    for _ in range(2):
        assert (await agent.tell(replica_id, "terminated"))["status"] == "terminated"
    assert await agent.listed("terminated") == []
    assert await status_of(agent, "i-2") == "terminated"
    assert await events_of(agent, "instance.terminated") == ["i-2"]


@covers("36", "bad")
async def test_ended_and_promoted_replicas_are_not_ended_again(agent: Standby) -> None:
    replica_id = await agent.standing()
    path = f"{agent.replicas}/{replica_id}"
    await agent.field.delete(path)
    await agent.field.refused("ALREADY_TERMINATED", "DELETE", path, status=400)


@covers("37", "good")
async def test_bind_after_the_end_awaits_confirmation(agent: Standby) -> None:
    await agent.manual_mode()
    replica_id = (await agent.ask())["replica_id"]
    await agent.field.delete(f"{agent.replicas}/{replica_id}")
    assert await agent.listed("terminated") == []

    reply = await agent.bind(replica_id)

    assert (reply["status"], reply["instance_id"]) == ("terminated", "i-2")
    (owed,) = await agent.listed("terminated")
    assert (owed["id"], owed["termination_confirmed"]) == (replica_id, False)
    await agent.tell(replica_id, "terminated")
    assert await agent.listed("terminated") == []


async def test_agent_that_polls_gets_no_command_besides(agent: Standby) -> None:
    await agent.manual_mode()
    first = (await agent.ask())["replica_id"]
    async with agent.field.plane.db.connection("*") as conn:
        assert await conn.fetch("SELECT FROM agent_commands WHERE type = 'create_replica'")
    await agent.bind(first)
    async with agent.field.plane.db.connection("*") as conn:
        (row,) = await conn.fetch("SELECT status, result FROM agent_commands")
    assert (row["status"], row["result"]) == ("completed", {"instance_id": "i-2"})
    await agent.listed("launching")

    await agent.field.delete(f"{agent.replicas}/{first}")

    async with agent.field.plane.db.connection("*") as conn:
        assert len(await conn.fetch("SELECT FROM agent_commands")) == 1
    assert len(await agent.listed("launching")) == 1


async def test_failed_launch_settles_its_order(agent: Standby) -> None:
    await agent.manual_mode()
    replica_id = (await agent.ask())["replica_id"]

    await agent.tell(replica_id, "failed", error_message="no capacity")

    async with agent.field.plane.db.connection("*") as conn:
        (row,) = await conn.fetch("SELECT status, message FROM agent_commands")
    assert (row["status"], row["message"]) == ("failed", "no capacity")
    assert await events_of(agent, "replica.failed") == [f"manual-{replica_id[:8]}"]


async def test_end_of_manual_mode_marks_its_replica(agent: Standby) -> None:
    await agent.listed("launching")
    replica_id = await agent.standing()
    await agent.calls.configure(agent.id, auto_terminate_enabled=False)

    await agent.manual_mode(on=False)

    async def owed() -> list[str]:
        return [r["id"] for r in await agent.listed("terminated")]

    assert await eventually(owed, every=0.2) == [replica_id]


async def test_deleted_agent_still_ends_what_it_launched(agent: Standby) -> None:
    replica_id = await agent.standing()
    await delete(agent)

    async def owed() -> list[str]:
        return [r["id"] for r in await agent.listed("terminated")]

    assert await eventually(owed, every=0.2) == [replica_id]
    assert (await agent.field.get(f"{agent.replicas}/{replica_id}"))["instance_id"] == "i-2"
    await agent.tell(replica_id, "terminated")

    await agent.field.refused("NOT_FOUND", "GET", agent.replicas, status=404)


async def test_parallel_binds_leave_one_standing(agent: Standby) -> None:
    await agent.manual_mode()
    replica_id = (await agent.ask())["replica_id"]
    path = f"{agent.replicas}/{replica_id}"

    async def bind(instance_id: str) -> int:
        sent = agent.field.send("PUT", path, {"instance_id": instance_id})
        async with sent as response:
            status: int = response.status
            return status

    assert sorted(await asyncio.gather(bind("i-2"), bind("i-3"))) == [200, 409]
    states = sorted([await status_of(agent, "i-2"), await status_of(agent, "i-3")])
    assert states == ["running_replica", "zombie"]


async def test_cost_is_integrated_from_launch_to_confirmed_end(
    agent: Standby, clock: FakeClock
) -> None:
    replica_id = await agent.standing()
    path = f"{agent.replicas}/{replica_id}"

    async def total() -> float:
        cost: float = (await agent.field.get(path))["cost"]["total"]
        return cost

    await jump(agent.field.plane, clock, timedelta(hours=1))
    assert await total() == pytest.approx(0.31, abs=0.001)
    await run_job(agent.field.plane, "replica-coordinator")
    assert await total() == pytest.approx(0.31, abs=0.001)
    await jump(agent.field.plane, clock, timedelta(hours=1))
    await agent.tell(replica_id, "terminated")
    await jump(agent.field.plane, clock, timedelta(hours=5))
    await run_job(agent.field.plane, "replica-coordinator")

    assert await total() == pytest.approx(0.62, abs=0.002)


@covers("32 33 34 35 36 37 38 39 X9", "foreign")
async def test_another_tenants_agent_is_not_there(agent: Standby) -> None:
    replica_id = await agent.standing()
    routes: tuple[tuple[str, str, Any], ...] = (
        ("GET", "/replicas", None),
        ("GET", "/replica-config", None),
        ("POST", "/replicas", {}),
        ("POST", "/replicas", {"instance_id": "i-9"}),
        ("POST", f"/replicas/{replica_id}/promote", {}),
        ("DELETE", f"/replicas/{replica_id}", None),
        ("PUT", f"/replicas/{replica_id}", {"instance_id": "i-9"}),
        ("POST", f"/replicas/{replica_id}/status", {"status": "ready"}),
        ("POST", f"/replicas/{replica_id}/sync-status", {}),
        ("GET", f"/replicas/{replica_id}", None),
    )
    for method, path, body in routes:
        for at, by in (
            (agent.at, agent.field.foreign),
            (f"/api/agents/{UNKNOWN_ID}", None),
            ("/api/agents/nobody", None),
        ):
            await agent.field.refused("NOT_FOUND", method, at + path, body, by=by, status=404)
    for lost in (UNKNOWN_ID, "nothing"):
        path = f"{agent.replicas}/{lost}"
        await agent.field.refused("NOT_FOUND", "GET", path, status=404)
        await agent.field.refused("NOT_FOUND", "DELETE", path, status=404)


@covers("31", "foreign")
async def test_another_tenants_list_is_not_there(agent: Standby) -> None:
    path = f"/api/client/{agent.field.tenant.id}/replicas"
    refused = agent.field.refused
    await refused("NOT_FOUND", "GET", path, by=agent.field.foreign, status=404)
    for unknown in (UNKNOWN_ID, "nobody"):
        for by in (None, ADMIN):
            gone = f"/api/client/{unknown}/replicas"
            await refused("NOT_FOUND", "GET", gone, by=by, status=404)


@covers("31 33 X9", "bad")
async def test_invalid_filters_are_rejected(agent: Standby) -> None:
    path = f"{agent.replicas}?status=sleeping"
    await agent.field.refused("VALIDATION_ERROR", "GET", path, status=400)
    for lost in ("/api/client/nobody/replicas", "/api/agents/nobody/replica-config"):
        await agent.field.refused("NOT_FOUND", "GET", lost, status=404)


async def status_of(agent: Standby, instance_id: str) -> str:
    """Return the status of an instance."""
    async with agent.field.plane.db.connection("*") as conn:
        status: str = await conn.fetchval("SELECT status FROM instances WHERE id = $1", instance_id)
    return status


async def events_of(agent: Standby, kind: str) -> list[str]:
    """Return the instances of the events of a kind."""
    async with agent.field.plane.db.connection("*") as conn:
        rows = await conn.fetch(
            "SELECT data ->> 'instance_id' AS id FROM outbox_events WHERE event_type = $1", kind
        )
    return [row["id"] for row in rows]


async def delete(agent: Standby) -> None:
    """Delete the agent."""
    await agent.field.delete(f"/api/client/agents/{agent.id}")
