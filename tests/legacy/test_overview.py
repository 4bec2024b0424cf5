"""Legacy API of overview pages: the server, its tenants, an instance and an agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from spotplane_server import events
from spotplane_server.insights.jobs import ActivityJob
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.savings import rules
from spotplane_server.savings.jobs import SavingsJob

from tests.decisions import models
from tests.decisions.test_cel import rule, rule_set
from tests.decisions.world import Engines
from tests.legacy.field import ADMIN, ANONYMOUS, UNKNOWN_ID, Field, covers
from tests.savings.world import TYPE, Machine, World, bucket
from tests.support.clock import FakeClock

DOLLAR = 1_000_000_000
ADMIN_ROUTES: Final = (
    "/api/admin/stats",
    "/api/admin/clients",
    "/api/admin/clients/growth",
    "/api/admin/activity",
    "/api/admin/system-health",
    "/api/admin/export/global-stats",
    "/api/admin/search?q=ab",
    "/api/admin/metrics/operational",
)
PUT_DECISION: Final = """
    INSERT INTO decisions (tenant_id, decided_at, id, agent_id, cause, engine, engine_version,
                           active_fallback, action, current_mode, target_mode, reasoning,
                           confidence, risk_score, expected_savings, inputs, scores, gates, outcome)
    VALUES ($1, $2, gen_random_uuid(), $3, 'loop', 'rules', '1', false, $4, 'spot', 'spot', '',
            $5, 0, 0, '{}', '{}', '[]', 'stay')
"""
PUT_FAILOVER: Final = """
    INSERT INTO failovers (tenant_id, id, agent_id, instance_id, kind, status, detected_at)
    VALUES ($1, gen_random_uuid(), $2, $3, $4, 'resolved', $5)
"""
PUT_RUN: Final = """
    INSERT INTO pipeline_runs (id, job, status, started_at, duplicates_removed, gaps_interpolated,
                               backfills_added)
    VALUES (gen_random_uuid(), 'price-pipeline', 'completed', $1, 3, 2, 1)
"""


@dataclass
class Scene:
    """One agent that moved from a zombie to a spot instance, and the history of the move."""

    world: World
    tenant_id: TenantId
    agent_id: UUID
    old: Machine
    new: Machine
    switch_id: UUID
    start: datetime
    now: datetime


@pytest.fixture
async def scene(field: Field, database_url: str, clock: FakeClock) -> AsyncIterator[Scene]:
    """Half an hour on demand, then half an hour on spot, until the bucket before the last."""
    conn = await asyncpg.connect(database_url)
    world, now = World(conn), clock.now()
    end = bucket(now) - rules.BUCKET
    start, half = end - timedelta(hours=1), end - timedelta(minutes=30)
    tenant_id = TenantId(UUID(field.tenant.id))
    await world.on_demand(start - timedelta(hours=1), DOLLAR)
    await world.spot("a", start, 4 * DOLLAR // 10)
    agent_id = await world.agent(tenant_id, start, "checkout")
    old = await world.launch(tenant_id, agent_id, start, mode="ondemand")
    await world.move(old, "terminated", half)
    new = await world.launch(tenant_id, agent_id, half, baseline=DOLLAR)
    await world.heard(new, end)
    switch_id = await world.switch(
        old, new, half, trigger="MANUAL", downtime=12, impact=600_000_000
    )
    yield Scene(world, tenant_id, agent_id, old, new, switch_id, start, now)
    await conn.close()


async def ended(field: Field, scene: Scene) -> None:
    """Terminate the agent's last instance, so that no sum depends on the current time."""
    await scene.world.move(scene.new, "terminated", bucket(scene.now) - rules.BUCKET)
    await SavingsJob(field.plane.db).run_once(scene.now)


def client(of: Scene) -> str:
    return f"/api/client/{of.tenant_id}"


@covers("1", "good")
async def test_the_fleet_is_counted(field: Field, scene: Scene) -> None:
    await ended(field, scene)
    await scene.world.newest("a", scene.now, DOLLAR)
    reply = await field.get("/api/admin/stats", by=ADMIN)
    assert reply == {
        "totalAccounts": 2,
        "agentsOnline": 1,
        "agentsTotal": 1,
        "poolsCovered": 1,
        "totalSavings": 0.3,
        "totalSwitches": 1,
        "manualSwitches": 1,
        "modelSwitches": 0,
        "emergencySwitches": 0,
        "totalDowntimeSeconds": 12,
        "backendHealth": "Healthy",
        "decisionEngineLoaded": True,
        "mlModelsLoaded": False,
    }


async def test_an_engine_that_failed_shows_in_the_stats(field: Field, scene: Scene) -> None:
    await scene.world.conn.execute("UPDATE engine_state SET active_fallback = true")
    reply = await field.get("/api/admin/stats", by=ADMIN)
    assert reply["backendHealth"] == "Decision Engine Not Loaded"
    assert reply["decisionEngineLoaded"] is False


@covers("2", "good")
async def test_clients_are_listed_newest_first(field: Field, scene: Scene) -> None:
    await ended(field, scene)
    rows = await field.get("/api/admin/clients", by=ADMIN)
    assert [row["id"] for row in rows] == [field.foreign.id, field.tenant.id]
    assert rows[0]["lastSync"] is None
    found = rows[1]
    assert found.pop("lastSync").endswith("Z")
    assert found.pop("createdAt").endswith("Z")
    assert found.pop("email")
    assert found == {
        "id": field.tenant.id,
        "name": "Test",
        "status": "active",
        "agentsOnline": 1,
        "agentsTotal": 1,
        "instances": 0,
        "totalSavings": 0.3,
    }


@covers("2", "bad")
async def test_clients_are_listed_in_pages(field: Field) -> None:
    async with field.send("GET", "/api/admin/clients?limit=1", by=ADMIN) as response:
        [first] = await response.json()
        cursor = response.headers["X-Next-Cursor"]
        assert response.headers["X-Total-Count"] == "2"
    [second] = await field.get(f"/api/admin/clients?limit=1&cursor={cursor}", by=ADMIN)
    assert [first["id"], second["id"]] == [field.foreign.id, field.tenant.id]
    await field.refused(
        "VALIDATION_ERROR", "GET", "/api/admin/clients?limit=0", status=400, by=ADMIN
    )


@covers("3", "good")
async def test_growth_has_every_day(field: Field, scene: Scene) -> None:
    await ActivityJob(field.plane.db).run_once(scene.now)
    rows = await field.get("/api/admin/clients/growth?days=3", by=ADMIN)
    assert [list(row) for row in rows] == [["date", "total", "new", "active", "count"]] * 3
    days = [day.strftime("%Y-%m-%d") for day in rules.days(scene.now, 3)]
    assert [row["date"] for row in rows] == days
    assert rows[0] == {"date": days[0], "total": 0, "new": 0, "active": 0, "count": 0}
    assert (rows[2]["total"], rows[2]["new"], rows[2]["count"]) == (2, 2, 2)
    assert sum(row["active"] for row in rows) >= 1


@covers("3", "bad")
@pytest.mark.parametrize("days", ["0", "366", "x"])
async def test_growth_has_a_range(field: Field, days: str) -> None:
    path = f"/api/admin/clients/growth?days={days}"
    await field.refused("VALIDATION_ERROR", "GET", path, status=400, by=ADMIN)


@covers("4", "good")
async def test_activity_is_what_happened(field: Field, scene: Scene) -> None:
    about = {"agent_id": str(scene.agent_id)}
    reported = (
        ("agent.registered", about),
        ("switch.completed", {**about, "old_mode": "ondemand", "new_mode": "spot"}),
        ("switch.failed", about),
        ("config.changed", about),
    )
    async with field.plane.db.transaction(ALL_TENANTS) as conn:
        for number, (kind, data) in enumerate(reported):
            at = scene.now + timedelta(seconds=number)
            event = events.Event(kind, str(scene.agent_id), data, scene.tenant_id)
            await events.append(conn, event, at)
    reply = await field.get("/api/admin/activity?limit=3", by=ADMIN)
    assert [list(item) for item in reply] == [["id", "type", "text", "time"]] * 3
    assert [item["type"] for item in reply] == ["event", "switch", "agent"]
    assert all(type(item["id"]) is int for item in reply)
    assert all("checkout" in item["text"] for item in reply)


@covers("4", "bad")
async def test_activity_has_a_limit(field: Field) -> None:
    await field.refused(
        "VALIDATION_ERROR", "GET", "/api/admin/activity?limit=51", status=400, by=ADMIN
    )


@covers("5", "good")
async def test_the_health_of_the_server_is_reported(field: Field, scene: Scene) -> None:
    engines = Engines(field.plane)
    await engines.upload_engine(("e.json", rule_set(rule("false"), name="my-engine")))
    session_id = await engines.upload_model(
        ("m.onnx", models.linear(price=-1)), model_name="my-model", model_version="7"
    )
    await engines.activate(session_id)
    reply = await field.get("/api/admin/system-health", by=ADMIN)
    used, size = reply.pop("connectionPool").split("/")
    assert 0 <= int(used) <= int(size)
    assert reply.pop("timestamp").endswith("Z")
    model, engine = reply["modelStatus"], reply["decisionEngineStatus"]
    assert [(file["name"], file["size"] > 0) for file in model.pop("files")] == [("m.onnx", True)]
    assert [(file["name"], file["size"] > 0) for file in engine.pop("files")] == [("e.json", True)]
    assert reply == {
        "apiStatus": "Healthy",
        "database": "Connected",
        "decisionEngine": "Loaded",
        "modelStatus": {
            "loaded": True,
            "name": "my-model",
            "version": "7",
            "filesUploaded": 1,
            "activeModels": [{"name": "my-model", "version": "7", "active": True}],
        },
        "decisionEngineStatus": {
            "loaded": True,
            "type": "my-model",
            "version": "7",
            "filesUploaded": 1,
            "active_fallback": False,
        },
    }


@covers("13", "good")
async def test_a_client_sees_itself(field: Field, scene: Scene) -> None:
    await ended(field, scene)
    reply = await field.get(client(scene))
    today = reply.pop("switches_today")
    monthly = reply.pop("monthly_savings")
    assert today in (0, 1)  # whether midnight has passed since
    assert 0 <= monthly <= 0.3
    assert reply.pop("lastSync").endswith("Z")
    assert reply["recent_switches"][0].pop("initiated_at").endswith("Z")
    assert reply.pop("email")
    assert reply == {
        "id": field.tenant.id,
        "name": "Test",
        "status": "active",
        "agentsOnline": 1,
        "agentsTotal": 1,
        "instances": 0,
        "totalSavings": 0.3,
        "totalDowntimeSeconds": 12,
        "totalSwitches": 1,
        "averageDowntimeSeconds": 12,
        "total_agents": 1,
        "online_agents": 1,
        "active_instances": 0,
        "spot_instances": 0,
        "total_switches": 1,
        "total_savings": 0.3,
        "recent_switches": [
            {
                "id": str(scene.switch_id),
                "old_instance_id": scene.old.id,
                "new_instance_id": scene.new.id,
                "old_mode": "ondemand",
                "new_mode": "spot",
                "savings_impact": 0.6,
            }
        ],
        "active_agents": [
            {
                "id": str(scene.agent_id),
                "hostname": "checkout",
                "status": "online",
                "instance_id": None,
                "instance_type": None,
                "region": None,
                "current_mode": "unknown",
            }
        ],
    }


@covers("13", "bad")
async def test_a_new_client_is_all_zeros(field: Field) -> None:
    path = f"/api/client/{field.tenant.id}"
    reply = await field.get(path)
    assert {name for name, value in reply.items() if value is None} == {"lastSync"}
    await field.refused("UNAUTHORIZED", "GET", path, status=401, by=ANONYMOUS)


@covers("13", "foreign")
@pytest.mark.parametrize("whose", ["foreign", "unknown", "malformed"])
async def test_another_client_is_not_there(field: Field, whose: str) -> None:
    ids = {"foreign": field.foreign.id, "unknown": UNKNOWN_ID, "malformed": "nope"}
    await field.refused("NOT_FOUND", "GET", f"/api/client/{ids[whose]}", status=404)


@covers("26", "good")
async def test_an_instance_is_measured(field: Field, scene: Scene) -> None:
    await ended(field, scene)
    await scene.world.newest("a", scene.now, 4 * DOLLAR // 10)
    reply = await field.get(f"/api/client/instances/{scene.new.id}/metrics")
    assert reply == {
        "id": scene.new.id,
        "instanceType": TYPE,
        "currentMode": "spot",
        "currentPoolId": scene.world.pool("a"),
        "spotPrice": 0.4,
        "onDemandPrice": 1,
        "baselineOnDemandPrice": 1,
        "uptimeHours": pytest.approx(0.5),
        "hoursSinceLastSwitch": pytest.approx(0.5),
        "totalSwitches": 1,
        "switchesLast7Days": 1,
        "switchesLast30Days": 1,
        "savingsLast30Days": 0.3,
        "totalSavings": 0.3,
    }


@covers("26", "bad")
async def test_an_instance_that_runs_is_measured_until_now(field: Field, scene: Scene) -> None:
    reply = await field.get(f"/api/client/instances/{scene.new.id}/metrics", by=ADMIN)
    assert reply["spotPrice"] == 0
    assert reply["uptimeHours"] > 0.5
    assert reply["totalSavings"] > 0.3
    await field.refused("NOT_FOUND", "GET", "/api/client/instances/i-0/metrics", status=404)


@covers("26", "foreign")
async def test_another_clients_instance_is_not_there(field: Field, scene: Scene) -> None:
    path = f"/api/client/instances/{scene.new.id}/metrics"
    await field.refused("NOT_FOUND", "GET", path, status=404, by=field.foreign)


@covers("63", "good")
async def test_all_clients_are_exported(field: Field, scene: Scene) -> None:
    await ended(field, scene)
    await scene.world.conn.execute(
        "UPDATE tenants SET name = '=1+1' WHERE id = $1", UUID(field.foreign.id)
    )
    async with field.send("GET", "/api/admin/export/global-stats", by=ADMIN) as response:
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert "global_stats.csv" in response.headers["Content-Disposition"]
        header, first, second = (await response.text()).splitlines()
    assert header == (
        "Client ID,Name,Email,Total Savings ($),Active Instances,Active Agents,Created At"
    )
    assert first.startswith(f"{field.foreign.id},'=1+1,")
    assert second.startswith(f"{field.tenant.id},Test,")
    assert ",0.30,0,1," in second
    rows = (await field.get("/api/admin/export/global-stats?format=json", by=ADMIN))["rows"]
    assert [row["client_id"] for row in rows] == [field.foreign.id, field.tenant.id]


@covers("67", "good")
async def test_everything_is_found_by_a_part_of_its_name(field: Field, scene: Scene) -> None:
    reply = await field.get("/api/admin/search?q=ECKOU", by=ADMIN)
    assert list(reply) == ["clients", "instances", "agents", "query", "results", "total_results"]
    agent = reply["agents"][0]
    assert agent.pop("lastHeartbeat").endswith("Z")
    assert agent == {
        "id": str(scene.agent_id),
        "name": "checkout",
        "hostname": "checkout",
        "isActive": True,
        "status": "online",
        "instanceId": scene.new.id,
        "clientId": field.tenant.id,
        "clientName": "Test",
    }
    assert [(found["id"], found["status"]) for found in reply["instances"]] == [
        (scene.new.id, "running"),
        (scene.old.id, "terminated"),
    ]
    zone = f"{scene.world.region}a"
    assert reply["instances"][0] == {
        "instanceId": scene.new.id,
        "id": scene.new.id,
        "instanceType": TYPE,
        "availabilityZone": zone,
        "az": zone,
        "region": scene.world.region,
        "status": "running",
        "clientId": field.tenant.id,
        "clientName": "Test",
    }
    assert reply["total_results"] == 3
    assert reply["results"]["instances"] == reply["instances"]


@covers("67", "good")
async def test_a_search_result_names_the_matched_kind(field: Field) -> None:
    part = field.tenant.id[:18]
    reply = await field.get(f"/api/admin/search?q={part}&types=clients,agents", by=ADMIN)
    [found] = reply["clients"]
    assert list(found) == ["id", "name", "email", "status", "createdAt", "matchField"]
    assert (found["id"], found["matchField"]) == (field.tenant.id, "id")
    assert reply["instances"] == []


@pytest.mark.parametrize("text", ["", "a", "%25%25", "__"])
async def test_what_matches_nothing_finds_nothing(field: Field, scene: Scene, text: str) -> None:
    reply = await field.get(f"/api/admin/search?q={text}", by=ADMIN)
    assert reply["total_results"] == 0


@covers("67", "bad")
@pytest.mark.parametrize("more", ["limit=51", "types=pools"])
async def test_a_search_has_bounds(field: Field, more: str) -> None:
    path = f"/api/admin/search?q=ab&{more}"
    await field.refused("VALIDATION_ERROR", "GET", path, status=400, by=ADMIN)


@covers("68", "good")
async def test_an_agent_has_statistics(field: Field, scene: Scene) -> None:
    await ended(field, scene)
    await scene.world.switch(scene.old, scene.new, scene.now, success=False)
    for action, confidence in (("stay", 0.5), ("switch", 0.75)):
        await scene.world.conn.execute(
            PUT_DECISION, scene.tenant_id, scene.now, scene.agent_id, action, confidence
        )
    reply = await field.get(f"/api/agents/{scene.agent_id}/statistics")
    assert reply["statistics"].pop("last_decision_at").endswith("Z")
    assert reply == {
        "totalDecisions": 2,
        "successfulSwitches": 1,
        "failedSwitches": 1,
        "successRate": 50,
        "averageConfidence": 0.625,
        "agent_id": str(scene.agent_id),
        "statistics": {
            "total_decisions": 2,
            "switches_executed": 1,
            "switches_recommended": 1,
            "success_rate": 0.5,
            "average_confidence": 0.625,
            "decisions_by_trigger": {"automatic": 1, "manual": 1, "emergency": 0},
            "avg_downtime_seconds": 12,
            "total_savings_generated": 0.3,
        },
    }


@covers("68", "bad")
async def test_a_new_agents_statistics_are_zeros(field: Field, scene: Scene) -> None:
    agent_id = await scene.world.agent(scene.tenant_id, scene.now)
    reply = await field.get(f"/api/agents/{agent_id}/statistics")
    numbers = {**reply, **reply.pop("statistics")}
    assert {name for name, value in numbers.items() if value is None} == {"last_decision_at"}
    await field.refused("NOT_FOUND", "GET", "/api/agents/nope/statistics", status=404)


@covers("68", "foreign")
async def test_another_clients_agent_is_not_there(field: Field, scene: Scene) -> None:
    path = f"/api/agents/{scene.agent_id}/statistics"
    await field.refused("NOT_FOUND", "GET", path, status=404, by=field.foreign)


@covers("X23", "good")
async def test_the_work_of_the_server_is_measured(field: Field, scene: Scene) -> None:
    await ended(field, scene)
    for kind in ("rebalance", "termination", "silence", "drain"):
        await scene.world.conn.execute(
            PUT_FAILOVER, scene.tenant_id, scene.agent_id, f"i-{kind}", kind, scene.now
        )
    await scene.world.conn.execute(PUT_RUN, scene.now)
    reply: Any = await field.get("/api/admin/metrics/operational", by=ADMIN)
    assert reply["data_cleaner"].pop("last_run_at").endswith("Z")
    cleaner = reply.pop("data_cleaner")
    assert list(cleaner) == [
        "total_duplicates_removed",
        "total_gaps_interpolated",
        "total_backfills_added",
    ]
    # The server's own pipeline runs too, and finds nothing to do.
    assert list(cleaner.values()) == [3, 2, 1]
    assert reply == {
        "agent_uptime": {"total_agents": 1, "online_agents": 1, "uptime_percentage": 100},
        "switch_downtime": {
            "avg_downtime_seconds": 12,
            "stddev_downtime_seconds": 0,
            "p95_downtime_seconds": 12,
        },
        "savings": {
            "total_savings": 0.3,
            "baseline_cost": 1,
            "savings_percentage": pytest.approx(30),
        },
        "emergency_stats": {
            "total_emergency_events": 2,
            "rebalance_count": 1,
            "termination_count": 1,
        },
    }


@covers("1 5 63 X23", "bad")
@covers("1 2 3 4 5 63 67 X23", "foreign")
@pytest.mark.parametrize("path", ADMIN_ROUTES)
async def test_administrators_routes_open_to_no_tenant(field: Field, path: str) -> None:
    await field.refused("FORBIDDEN", "GET", path, status=403)
    await field.refused("UNAUTHORIZED", "GET", path, status=401, by=ANONYMOUS)
