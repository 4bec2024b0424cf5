"""Legacy API of emergencies: signals of agents, and their lists for operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.legacy.standby import FAR_POOL, Standby, polling
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.fleet import TYPE, ZONES
from tests.support.link import run_job
from tests.support.plane import running

POOL = {"id": FAR_POOL, "name": f"{TYPE} ({ZONES[1]})", "az": ZONES[1]}
NO_POOL = {"id": None, "name": None, "az": None}


@pytest.fixture
async def agent(field: Field) -> AsyncIterator[Standby]:
    """An agent that polls."""
    async with polling(field) as found:
        yield found


@pytest.fixture
async def lonely(field: Field) -> AsyncIterator[Standby]:
    """An agent without known pools."""
    async with polling(field, zones=()) as found:
        yield found


def going(clock: FakeClock, **more: Any) -> dict[str, Any]:
    """Return a termination notice in the cloud's format."""
    at = clock.now() + timedelta(seconds=118)
    return {"instance_id": "i-1", "termination_time": at.strftime("%Y-%m-%dT%H:%M:%SZ")} | more


async def create(agent: Standby, **body: Any) -> Any:
    """Call route 40."""
    return await agent.field.post(f"{agent.at}/create-emergency-replica", body, status=201)


async def imminent(agent: Standby, **body: Any) -> Any:
    """Call route 41."""
    return await agent.field.post(f"{agent.at}/termination-imminent", body)


@covers("40", "good")
async def test_repeated_signal_creates_one_replica(agent: Standby) -> None:
    first = await create(agent, signal_type="rebalance-recommendation", instance_id="i-1")
    again = await create(agent, signal_type="rebalance-recommendation", instance_id="i-1")

    replica_id = first["replica_id"]
    assert first == {
        "success": True,
        "replica_id": replica_id,
        "instance_id": f"emergency-{replica_id[:8]}",
        "replica_instance_id": f"emergency-{replica_id[:8]}",
        "pool": POOL,
        "hourly_cost": 0.31,
        "message": "a replica is being launched",
        "urgency": "high",
        "existing": False,
        "action": "created_replica",
        "command_id": None,
        "error": None,
    }
    assert again == first | {
        "existing": True,
        "action": "existing_replica",
        "message": "a replica stands by already",
    }
    (listed,) = await agent.listed("launching")
    assert (listed["type"], listed["created_by"]) == ("automatic-rebalance", "emergency")


@covers("40 41", "good")
async def test_notice_in_the_order_of_the_field_promotes_what_stands_by(
    agent: Standby, clock: FakeClock
) -> None:
    replica_id = await agent.standing()
    notice = going(clock)

    made = await create(agent, signal_type="termination-notice", **notice)
    reply = await imminent(agent, replica_id=made["replica_id"], action="terminate", **notice)

    assert (made["replica_id"], made["existing"]) == (replica_id, True)
    assert (made["urgency"], made["instance_id"]) == ("critical", "i-2")
    assert 0 <= reply.pop("failover_time_ms") < 2000
    assert reply == {
        "success": True,
        "message": "the replica has taken over",
        "new_instance_id": "i-2",
        "new_primary_id": "i-2",
        "old_instance_id": "i-1",
        "replica_id": replica_id,
        "action": "replica_promoted",
    }
    assert await agent.primary() == "i-2"


async def test_repeat_after_the_promotion_returns_the_first_response(
    agent: Standby, clock: FakeClock
) -> None:
    await agent.standing()
    notice = going(clock)
    first = await imminent(agent, **notice)

    for body in (
        notice,
        {"instance_id": "i-1"},
        {"instance_id": "i-1", "time": "2031-01-01T00:00:00Z"},
        {"termination_time": notice["termination_time"]},
        {"instance_id": "i-unknown", "termination_time": notice["termination_time"]},
        {},
    ):
        assert await imminent(agent, **body) == first
    made = await create(agent, signal_type="termination-notice", **notice)

    assert (made["action"], made["existing"]) == ("replica_promoted", True)
    assert await agent.primary() == "i-2"


@covers("41", "good")
async def test_notice_without_a_replica_is_no_success_and_the_plane_goes_on(
    agent: Standby, clock: FakeClock
) -> None:
    notice = going(clock)
    made = await create(agent, **notice)
    reply = await imminent(agent, **notice)

    assert reply == {
        "success": False,
        "message": "no replica could take over yet; one that is bound is promoted at once",
        "new_instance_id": None,
        "new_primary_id": None,
        "old_instance_id": "i-1",
        "replica_id": made["replica_id"],
        "failover_time_ms": None,
        "action": "launching_replica",
    }
    assert made["replica_id"] == (await agent.listed("launching"))[0]["id"]
    await agent.bind(made["replica_id"])

    async def promoted() -> bool:
        return await agent.primary() == "i-2"

    await eventually(promoted, every=0.15)
    # Agents post this right after binding.
    assert (await agent.tell(made["replica_id"], "ready"))["status"] == "promoted"


@covers("40 41", "good")
async def test_last_resort_is_a_switch_to_on_demand(lonely: Standby, clock: FakeClock) -> None:
    made = await create(lonely, **going(clock))
    again = await create(lonely, **going(clock))
    reply = await imminent(lonely, **going(clock))

    assert made["command_id"]
    assert made == {
        "success": True,
        "replica_id": None,
        "instance_id": None,
        "replica_instance_id": None,
        "pool": NO_POOL,
        "hourly_cost": None,
        "message": "no pool is left; a switch to on-demand is queued",
        "urgency": "critical",
        "existing": False,
        "action": "switch_to_ondemand",
        "command_id": made["command_id"],
        "error": None,
    }
    assert again == made
    assert (reply["success"], reply["action"]) == (False, "switch_queued")
    async with lonely.field.plane.db.connection("*") as conn:
        (row,) = await conn.fetch("SELECT priority, trigger, parameters FROM agent_commands")
    assert (row["priority"], row["trigger"]) == (100, "EMERGENCY")
    assert row["parameters"]["target_mode"] == "ondemand"


@covers("42 X16", "good")
async def test_rebalance_returns_the_risk_of_the_pool(agent: Standby) -> None:
    made = await create(agent, signal_type="rebalance-recommendation")
    body = {"cloud_instance_id": "i-1", "notice_type": "REBALANCE", "immediate": False}

    reply = await agent.field.post(f"{agent.at}/rebalance-recommendation", body)

    assert reply == {
        "success": True,
        "action": "monitor",
        "risk_score": 0.0333,
        "reason": "the pool's risk is 0.03; a replacement stands by or is on its way",
        "target_mode": None,
        "target_pool_id": None,
        "target_pool_name": None,
        "replica_id": made["replica_id"],
        "command_id": None,
    }
    noticed = await agent.field.post(f"{agent.at}/rebalance-notice", {"notice_time": "now"})
    assert noticed == reply | {
        "status": "acknowledged",
        "emergency_replica_id": made["replica_id"],
    }


@covers("42", "good")
async def test_risky_pool_is_to_be_left_for_the_replicas(agent: Standby) -> None:
    async with agent.field.plane.db.connection("*") as conn:
        await conn.execute(
            "INSERT INTO pool_interruptions"
            " SELECT $1, 'i-' || n, now() FROM generate_series(100, 115) n",
            f"{TYPE}.{ZONES[0]}",
        )

    reply = await agent.field.post(f"{agent.at}/rebalance-recommendation", {"instance_id": "i-1"})

    assert reply["action"] == "switch"
    assert reply["risk_score"] > 0.30
    assert (reply["target_mode"], reply["target_pool_id"]) == ("spot", FAR_POOL)
    assert reply["target_pool_name"] == f"{TYPE} ({ZONES[1]})"
    assert reply["command_id"] is None


@covers("42 X16 X17", "good")
async def test_immediate_rebalance_and_notice_are_a_termination(agent: Standby) -> None:
    replica_id = await agent.standing()

    reply = await agent.field.post(
        f"{agent.at}/rebalance-recommendation", {"instance_id": "i-1", "immediate": True}
    )

    assert (reply["success"], reply["action"]) == (True, "replica_promoted")
    noticed = await agent.field.post(f"{agent.at}/termination-notice", {"cloud_instance_id": "i-1"})
    assert noticed == reply | {"status": "acknowledged", "emergency_replica_id": replica_id}


@covers("X17", "good")
async def test_termination_notice_alone_launches_a_replica(
    agent: Standby, clock: FakeClock
) -> None:
    reply = await agent.field.post(f"{agent.at}/termination-notice", going(clock))

    (launching,) = await agent.listed("launching")
    assert (reply["success"], reply["action"]) == (False, "launching_replica")
    assert reply["status"] == "acknowledged"
    assert reply["emergency_replica_id"] == launching["id"]


async def test_disabled_agent_is_rescued_and_the_bypass_is_on_record(
    agent: Standby, clock: FakeClock
) -> None:
    await agent.calls.configure(agent.id, enabled=False, auto_switch_enabled=False)

    made = await create(agent, **going(clock))

    assert made["action"] == "created_replica"
    async with agent.field.plane.db.connection("*") as conn:
        (audit,) = await conn.fetch(
            "SELECT after FROM audit_logs WHERE action = 'emergency_bypass'"
        )
        (event,) = await conn.fetch(
            "SELECT data FROM outbox_events WHERE event_type = 'emergency.bypass'"
        )
    bypassed = [
        "auto_switch",
        "manual_replica_mode",
        "agent_disabled",
        "switch_limits",
        "dwell",
        "savings",
        "risk",
        "quotas",
    ]
    assert audit["after"]["bypassed"] == bypassed
    assert event["data"]["bypassed"] == bypassed


async def test_wishes_do_not_bind_a_rescue(agent: Standby) -> None:
    made = await create(
        agent,
        signal_type="rebalance-recommendation",
        pool_id=f"{TYPE}.{ZONES[0]}",
        preferred_zones=[ZONES[2]],
        exclude_zones=[ZONES[0]],
        urgency="whatever",
    )

    assert made["pool"]["az"] == ZONES[2]


async def test_signal_about_the_replica_fails_it(agent: Standby, clock: FakeClock) -> None:
    replica_id = await agent.standing()
    notice = going(clock, instance_id="i-2")

    reply = await imminent(agent, **notice)
    made = await create(agent, signal_type="termination-notice", **notice)

    assert (reply["success"], reply["action"], reply["replica_id"]) == (
        False,
        "replica_failed",
        None,
    )
    assert (made["action"], made["replica_id"], made["success"]) == ("replica_failed", None, True)
    one = await agent.field.get(f"{agent.replicas}/{replica_id}")
    assert one["status"] == "failed"
    reply = await imminent(agent, instance_id="i-2", time="2031-01-01T00:00:00Z")
    assert (reply["success"], reply["replica_id"]) == (False, None)
    assert await agent.primary() == "i-1"


async def test_signal_about_a_zombie_is_ignored(agent: Standby, clock: FakeClock) -> None:
    replica_id = await agent.standing()
    await agent.field.post(f"{agent.replicas}/{replica_id}/promote", {"create_new_replica": False})

    reply = await imminent(agent, **going(clock))
    made = await create(agent, signal_type="termination-notice", **going(clock))

    assert (reply["success"], reply["action"]) == (False, "ignored")
    assert (made["success"], made["action"], made["replica_id"]) == (True, "ignored", None)
    assert await agent.primary() == "i-2"


async def test_two_servers_and_many_calls_promote_once(agent: Standby, clock: FakeClock) -> None:
    await agent.standing()
    notice = going(clock)
    async with running(agent.field.plane.database_url, clock) as second:
        answers = await asyncio.gather(
            *(imminent(agent, **notice) for _ in range(6)),
            *(create(agent, signal_type="termination-notice", **notice) for _ in range(6)),
            run_job(second, "failover"),
            run_job(second, "failover"),
        )

    reported = [
        response for response in answers if isinstance(response, dict) and "urgency" not in response
    ]
    assert {response["new_primary_id"] for response in reported if response["success"]} == {"i-2"}
    assert (await imminent(agent, **notice))["success"] is True
    async with agent.field.plane.db.connection("*") as conn:
        assert await conn.fetchval("SELECT count(*) FROM switches") == 1
        assert await conn.fetchval("SELECT count(*) FROM failovers") == 1


@covers("75", "good")
async def test_emergency_is_shown_while_it_lasts(agent: Standby, clock: FakeClock) -> None:
    path = f"{agent.at}/emergency-status"
    before = await agent.field.get(path)
    assert before == {
        "agent_id": agent.id,
        "emergency_mode_active": False,
        "rebalance_only_mode": False,
        "ml_models_loaded": False,
        "decision_engine_active": True,
        "last_emergency_event": None,
        "emergency_replicas_count": 0,
        "termination_notices_24h": 0,
        "notice_status": "none",
        "notice_received_at": None,
        "notice_deadline": None,
        "emergency_replica": None,
        "actions": [],
    }
    made = await create(agent, signal_type="rebalance-recommendation")

    during = await agent.field.get(path)

    assert during["notice_received_at"].endswith("Z")
    assert during["last_emergency_event"].pop("timestamp").endswith("Z")
    assert during["last_emergency_event"] == {
        "type": "rebalance-recommendation",
        "action_taken": "created-replica",
        "outcome": "handling",
    }
    assert (during["emergency_mode_active"], during["rebalance_only_mode"]) == (True, True)
    assert (during["notice_status"], during["emergency_replicas_count"]) == ("rebalance", 1)
    assert during["emergency_replica"] == {
        "id": made["replica_id"],
        "status": "launching",
        "pool_id": FAR_POOL,
        "sync_progress": 0,
    }
    assert [action["description"] for action in during["actions"]] == [
        "detected: rebalance",
        f"replica_requested: {FAR_POOL}",
    ]
    await imminent(agent, **going(clock))
    noticed = await agent.field.get(path)
    assert (noticed["notice_status"], noticed["rebalance_only_mode"]) == ("termination", False)
    assert noticed["termination_notices_24h"] == 1
    assert datetime.fromisoformat(noticed["notice_deadline"]) > clock.now()


@covers("X25", "good")
async def test_administrators_list_every_emergency(agent: Standby, clock: FakeClock) -> None:
    await agent.standing()
    await imminent(agent, **going(clock))

    reply = await agent.field.get("/api/admin/emergency-events?days=7", by=ADMIN)

    (event,) = reply["events"]
    assert event.pop("detected_at").endswith("Z")
    assert 0 <= event.pop("response_time_ms") < 2000
    assert event.pop("id")
    assert event.pop("replica_id")
    assert event == {
        "client_id": agent.field.tenant.id,
        "agent_id": agent.id,
        "instance_id": "i-1",
        "signal_type": "termination-notice",
        "status": "resolved",
        "response_action": "promoted-existing-replica",
        "new_instance_id": "i-2",
        "bypassed": [
            "auto_switch",
            "agent_disabled",
            "switch_limits",
            "dwell",
            "savings",
            "risk",
            "quotas",
        ],
    }
    assert reply["summary"] == {
        "total": 1,
        "rebalance": 0,
        "termination": 1,
        "promoted": 1,
        "failed": 0,
    }
    assert (reply["total"], reply["days"]) == (1, 7)


async def test_counters_of_signals_add_up(agent: Standby, clock: FakeClock) -> None:
    async with agent.field.plane.db.connection("*") as conn:
        for number, kind in enumerate(("rebalance", "termination", "silence", "silence", "drain")):
            status = "failed" if kind == "silence" else "resolved"
            await conn.execute(
                "INSERT INTO failovers (tenant_id, id, agent_id, instance_id, kind, status,"
                " detected_at) VALUES ($1, gen_random_uuid(), $2, $3, $4, $5, $6)",
                UUID(agent.field.tenant.id),
                UUID(agent.id),
                f"i-{number}",
                kind,
                status,
                clock.now(),
            )

    reply = await agent.field.get("/api/admin/emergency-events", by=ADMIN)

    summary = reply["summary"]
    assert summary["total"] == summary["rebalance"] + summary["termination"] == 2
    assert summary["failed"] == 0
    assert reply["total"] == len(reply["events"]) == 4


async def test_market_around_an_emergency_is_kept(agent: Standby, clock: FakeClock) -> None:
    await create(agent, **going(clock))
    await run_job(agent.field.plane, "failover")

    async with agent.field.plane.db.connection("*") as conn:
        (row,) = await conn.fetch(
            "SELECT price_trend, weekday, hour, pool_interruptions, region_interruptions,"
            " earlier_interruptions, detected_at FROM failovers"
        )
    at = row["detected_at"].astimezone(UTC)
    assert (row["weekday"], row["hour"]) == (at.isoweekday() % 7, at.hour)
    assert (row["pool_interruptions"], row["earlier_interruptions"]) == (1, 0)
    assert row["region_interruptions"] == pytest.approx(1 / 3)
    assert row["price_trend"] in {"unknown", "stable"}


@covers("40 41 42 X16 X17 X25", "bad")
async def test_bad_signals_are_refused(agent: Standby) -> None:
    refused = agent.field.refused
    body = {"signal_type": "earthquake"}
    path = f"{agent.at}/create-emergency-replica"
    await refused("VALIDATION_ERROR", "POST", path, body, status=400)
    for name in (
        "create-emergency-replica",
        "termination-imminent",
        "rebalance-recommendation",
        "rebalance-notice",
        "termination-notice",
    ):
        long = {"instance_id": "i" * 129}
        await refused("VALIDATION_ERROR", "POST", f"{agent.at}/{name}", long, status=400)
    for days in ("0", "366", "many"):
        path = f"/api/admin/emergency-events?days={days}"
        await refused("VALIDATION_ERROR", "GET", path, by=ADMIN, status=400)
    # A time that nobody can read, or keep, stops no rescue.
    for time in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "soon"):
        assert (await imminent(agent, termination_time=time))["action"] == "launching_replica"


@covers("40 41 42 75 X16 X17 X25", "foreign")
@covers("75", "bad")
async def test_another_tenants_agent_has_no_emergencies(agent: Standby) -> None:
    for method, name in (
        ("POST", "create-emergency-replica"),
        ("POST", "termination-imminent"),
        ("POST", "rebalance-recommendation"),
        ("POST", "rebalance-notice"),
        ("POST", "termination-notice"),
        ("GET", "emergency-status"),
    ):
        for at, by in (
            (agent.at, agent.field.foreign),
            (f"/api/agents/{UNKNOWN_ID}", None),
            ("/api/agents/nobody", None),
        ):
            await agent.field.refused("NOT_FOUND", method, f"{at}/{name}", by=by, status=404)
    await agent.field.refused("FORBIDDEN", "GET", "/api/admin/emergency-events", status=403)
