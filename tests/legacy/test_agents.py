"""Legacy API of agents: registration, heartbeats, configuration, lists and deletion."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from spotplane.v1 import agent_pb2, agent_pb2_grpc

from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.support.clock import FakeClock
from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.plane import ADMIN as ADMIN_METADATA

POOL = f"{TYPE}.{ZONES[0]}"
OFF: dict[str, Any] = {
    "enabled": False,
    "auto_switch_enabled": False,
    "auto_terminate_enabled": False,
    "terminate_wait_seconds": 0,
    "replica_enabled": False,
    "replica_count": 0,
    "manual_replica_enabled": False,
    "min_savings_percent": 0,
    "risk_threshold": 0,
    "max_switches_per_week": 0,
    "max_switches_per_day": 0,
    "min_pool_duration_hours": 0,
    "config_version": 0,
}
DEFAULTS: dict[str, Any] = {
    "enabled": True,
    "auto_switch_enabled": True,
    "auto_terminate_enabled": True,
    "terminate_wait_seconds": 300,
    "replica_enabled": False,
    "replica_count": 0,
    "manual_replica_enabled": False,
    "min_savings_percent": 15,
    "risk_threshold": 0.3,
    "max_switches_per_week": 10,
    "max_switches_per_day": 3,
    "min_pool_duration_hours": 2,
    "config_version": 1,
}


def machine(instance_id: str = "i-1", **more: Any) -> dict[str, Any]:
    """Return the body of a registration."""
    return {
        "logical_agent_id": "chat",
        "instance_id": instance_id,
        "instance_type": TYPE,
        "region": REGION,
        "az": ZONES[0],
        "mode": "spot",
        "public_ip": None,
        "unheard_of": [1],
    } | more


async def register(field: Field, instance_id: str = "i-1", **more: Any) -> str:
    """Register an instance and return the id of its agent."""
    reply = await field.post("/api/agents/register", machine(instance_id, **more))
    return str(reply["agent_id"])


def without(reply: dict[str, Any], *members: str) -> dict[str, Any]:
    """Return a response without its variable members; each must be present and set."""
    assert all(reply[name] for name in members), reply
    return {name: value for name, value in reply.items() if name not in members}


@covers("14", "good")
async def test_registration_returns_the_agent_at_top_level(field: Field) -> None:
    reply = await field.post("/api/agents/register", machine())
    agent_id = reply["agent_id"]
    assert reply == {
        "agent_id": agent_id,
        "client_id": field.tenant.id,
        "config": {"agent_id": agent_id} | DEFAULTS,
        "message": None,
        "agent_token": None,
    }


@covers("14", "bad")
async def test_registration_names_what_is_missing(field: Field) -> None:
    body = machine()
    del body["region"]
    reply = await field.refused(
        "VALIDATION_ERROR", "POST", "/api/agents/register", body, status=400
    )
    assert [detail["field"] for detail in reply["details"]] == ["region"]


async def test_aliases_and_a_token_of_its_own(field: Field) -> None:
    body = machine(issue_agent_token=True, availability_zone=ZONES[1], version="4.0")
    del body["az"]
    reply = await field.post("/api/agents/register", body)
    token, agent_id = reply["agent_token"], reply["agent_id"]

    shown = await field.get(f"/api/agents/{agent_id}", by=token)
    assert (shown["az"], shown["agent_version"]) == (ZONES[1], "4.0")
    other = await register(field, "i-2", logical_agent_id="search")
    await field.refused("NOT_FOUND", "GET", f"/api/agents/{other}", status=404, by=token)
    await field.refused(
        "FORBIDDEN", "POST", f"/api/client/agents/{agent_id}/toggle-enabled", status=403, by=token
    )


@covers("14", "foreign")
async def test_another_tenants_names_are_its_own(field: Field) -> None:
    mine = await register(field)
    theirs = await field.post("/api/agents/register", machine(), by=field.foreign)
    assert theirs["agent_id"] != mine
    assert theirs["client_id"] == field.foreign.id


async def test_a_retired_instance_gets_a_disabled_configuration(field: Field) -> None:
    agent_id = await register(field)
    await register(field, "i-2")
    reply = await field.post("/api/agents/register", machine())
    assert reply == {
        "agent_id": agent_id,
        "client_id": field.tenant.id,
        "config": {"agent_id": agent_id} | OFF,
        "message": "known as zombie; nothing was changed",
        "agent_token": None,
    }
    assert (await field.get(f"/api/agents/{agent_id}"))["instance_id"] == "i-2"


@covers("15", "good")
async def test_heartbeat_returns_the_configuration(field: Field) -> None:
    agent_id = await register(field)
    reply = await field.post(
        f"/api/agents/{agent_id}/heartbeat",
        {
            "status": "running",
            "instance_id": "i-1",
            "inventory_snapshot": {},
            "health_metrics": {"uptime": 5, "cpu_percent": 12.5, "memory_percent": None},
            "timestamp": "2026-01-01T00:00:00",
        },
    )
    assert reply == {
        "success": True,
        "config_version": 1,
        "commands_pending": False,
        "config": {"agent_id": agent_id} | DEFAULTS,
        "next_heartbeat_seconds": 30,
    }


@covers("15", "bad")
async def test_heartbeat_refuses_what_is_too_long(field: Field) -> None:
    agent_id = await register(field)
    await field.refused(
        "VALIDATION_ERROR",
        "POST",
        f"/api/agents/{agent_id}/heartbeat",
        {"status": "online", "instance_id": "i" * 200},
        status=400,
    )


@covers("15 16 20 17 18 19 43 X6 X15", "foreign")
async def test_another_tenants_agent_is_not_there(field: Field) -> None:
    agent_id = await register(field)
    for method, path, body in (
        ("POST", "/api/agents/{}/heartbeat", {"status": "online"}),
        ("GET", "/api/agents/{}/config", None),
        ("GET", "/api/agents/{}", None),
        ("POST", "/api/agents/{}/termination", {"instance_id": "i-1"}),
        ("POST", "/api/agents/{}/shutdown", {"cloud_instance_id": "i-1"}),
        ("POST", "/api/client/agents/{}/toggle-enabled", {"enabled": False}),
        ("POST", "/api/client/agents/{}/settings", {"replica_count": 1}),
        ("POST", "/api/client/agents/{}/config", {"autoSwitchEnabled": False}),
        ("DELETE", "/api/client/agents/{}", None),
    ):
        answers = []
        for named in (agent_id, UNKNOWN_ID, "nope"):
            reply = await field.refused(
                "NOT_FOUND", method, path.format(named), body, status=404, by=field.foreign
            )
            del reply["correlation_id"]
            answers.append(reply)
        assert answers[0] == answers[1] == answers[2], path
    assert (await field.get(f"/api/agents/{agent_id}"))["status"] == "online"


@covers("16", "good")
async def test_only_the_primary_reads_an_enabled_configuration(field: Field) -> None:
    agent_id = await register(field)
    await register(field, "i-2")
    path = f"/api/agents/{agent_id}/config"

    assert await field.get(path) == {"agent_id": agent_id} | DEFAULTS
    assert await field.get(f"{path}?instance_id=i-2") == {"agent_id": agent_id} | DEFAULTS
    retired = await field.get(path, headers={"X-Instance-Id": "i-1"})
    assert retired == {"agent_id": agent_id} | DEFAULTS | {"enabled": False}


@covers("16 X6 X15 43", "bad")
async def test_instance_ids_have_a_length(field: Field) -> None:
    agent_id = await register(field)
    long = "i" * 200
    await field.refused(
        "VALIDATION_ERROR", "GET", f"/api/agents/{agent_id}/config?instance_id={long}", status=400
    )
    for route, member in (("shutdown", "cloud_instance_id"), ("termination", "instance_id")):
        await field.refused(
            "VALIDATION_ERROR",
            "POST",
            f"/api/agents/{agent_id}/{route}",
            {member: long},
            status=400,
        )
    await field.refused("NOT_FOUND", "GET", "/api/agents/not-an-id", status=404)


@covers("17", "good")
async def test_toggle_sets_and_never_inverts(field: Field) -> None:
    agent_id = await register(field)
    path = f"/api/client/agents/{agent_id}/toggle-enabled"
    assert await field.post(path, {"enabled": False}) == {"success": True, "enabled": False}
    assert (await field.get(f"/api/agents/{agent_id}"))["status"] == "disabled"
    assert await field.post(path) == {"success": True, "enabled": True}
    assert await field.post(path, {}) == {"success": True, "enabled": True}
    shown = await field.get(f"/api/agents/{agent_id}")
    assert (shown["status"], shown["config_version"]) == ("online", 3)


@covers("17 18 19", "bad")
async def test_changes_that_cannot_be_meant(field: Field) -> None:
    agent_id = await register(field)
    base = f"/api/client/agents/{agent_id}"
    for route, body in (
        ("toggle-enabled", {"enabled": "perhaps"}),
        ("settings", {"replica_count": 2}),
        ("config", {"terminateWaitMinutes": 1441}),
    ):
        await field.refused("VALIDATION_ERROR", "POST", f"{base}/{route}", body, status=400)
    both = {"autoSwitchEnabled": True, "manualReplicaEnabled": True}
    await field.refused("MODE_CONFLICT", "POST", f"{base}/config", both, status=400)
    assert (await field.get(f"/api/agents/{agent_id}"))["config_version"] == 1


@covers("18 19", "good")
async def test_both_ways_to_configure_are_one(field: Field) -> None:
    agent_id = await register(field)
    base = f"/api/client/agents/{agent_id}"
    reply = await field.post(
        f"{base}/settings",
        {
            "terminate_wait_seconds": 100,
            "replica_enabled": True,
            "replica_count": 1,
            "min_savings_percent": 12.5,
            "risk_threshold": 0.25,
            "max_switches_per_week": 7,
            "max_switches_per_day": 2,
            "min_pool_duration_hours": 1,
        },
    )
    expected = {
        "success": True,
        "auto_switch_enabled": True,
        "manual_replica_enabled": False,
        "auto_terminate_enabled": True,
        "terminate_wait_seconds": 100,
        "config_version": 2,
    }
    assert reply == expected
    # 100 seconds show as 2 minutes; writing those back changes nothing.
    listed = await field.get(f"/api/client/{field.tenant.id}/agents")
    assert listed[0]["terminateWaitMinutes"] == 2
    shown = {
        "autoSwitchEnabled": True,
        "manualReplicaEnabled": False,
        "autoTerminateEnabled": True,
        "terminateWaitMinutes": 2,
    }
    assert await field.post(f"{base}/config", shown) == expected
    manual = await field.post(
        f"{base}/config", {"manualReplicaEnabled": True, "terminate_wait_minutes": 5}
    )
    assert manual == expected | {
        "auto_switch_enabled": False,
        "manual_replica_enabled": True,
        "terminate_wait_seconds": 300,
        "config_version": 3,
    }


@covers("20", "good")
async def test_deletion_is_final(field: Field) -> None:
    agent_id = await register(field)
    assert await field.delete(f"/api/client/agents/{agent_id}") == {
        "success": True,
        "message": "the agent was deleted",
        "agent_id": agent_id,
    }
    for method, path in (
        ("DELETE", f"/api/client/agents/{agent_id}"),
        ("GET", f"/api/agents/{agent_id}"),
        ("GET", f"/api/agents/{agent_id}/config"),
        ("GET", f"/api/agents/{agent_id}/pending-commands"),
    ):
        await field.refused("NOT_FOUND", method, path, status=404)
    assert await field.get(f"/api/client/{field.tenant.id}/agents") == []
    assert await register(field) != agent_id


@covers("20 23", "bad")
async def test_a_limit_that_is_none(field: Field) -> None:
    await field.refused(
        "VALIDATION_ERROR",
        "GET",
        f"/api/client/{field.tenant.id}/agents/history?limit=zero",
        status=400,
    )
    await field.refused("NOT_FOUND", "DELETE", "/api/client/agents/nope", status=404)


@covers("21", "good")
async def test_agents_of_a_tenant(field: Field) -> None:
    agent_id = await register(field, hostname="web", agent_version="4.0.1")
    (shown,) = await field.get(f"/api/client/{field.tenant.id}/agents")
    assert without(shown, "lastHeartbeat") == {
        "id": agent_id,
        "logicalAgentId": "chat",
        "hostname": "web",
        "instanceId": "i-1",
        "instanceType": TYPE,
        "region": REGION,
        "az": ZONES[0],
        "currentMode": "spot",
        "currentPoolId": POOL,
        "status": "online",
        "instanceCount": 1,
        "enabled": True,
        "autoSwitchEnabled": True,
        "manualReplicaEnabled": False,
        "autoTerminateEnabled": True,
        "terminateWaitMinutes": 5,
        "agentVersion": "4.0.1",
    }


@covers("21", "bad")
async def test_agents_need_a_limit_that_is_one(field: Field) -> None:
    await field.refused(
        "VALIDATION_ERROR", "GET", f"/api/client/{field.tenant.id}/agents?limit=x", status=400
    )


@covers("21 23", "foreign")
async def test_another_tenants_lists_are_not_there(field: Field) -> None:
    for route in ("agents", "agents/history"):
        for named in (field.foreign.id, UNKNOWN_ID, "nope"):
            await field.refused("NOT_FOUND", "GET", f"/api/client/{named}/{route}", status=404)
        await field.refused(
            "NOT_FOUND", "GET", f"/api/client/{UNKNOWN_ID}/{route}", status=404, by=ADMIN
        )


@covers("23", "good")
async def test_history_keeps_deleted_agents(field: Field) -> None:
    gone = await register(field, "i-1", logical_agent_id="old")
    await field.delete(f"/api/client/agents/{gone}")
    live = await register(field, "i-2")
    shown = await field.get(f"/api/client/{field.tenant.id}/agents/history")
    assert [item["id"] for item in shown] == [live, gone]
    times = ("createdAt", "updatedAt", "lastHeartbeat", "installedAt", "terminatedAt")
    assert without(shown[1], *times) == {
        "id": gone,
        "logicalAgentId": "old",
        "instanceId": "i-1",
        "instanceType": TYPE,
        "region": REGION,
        "az": ZONES[0],
        "currentMode": "spot",
        "status": "deleted",
        "enabled": False,
        "autoSwitchEnabled": False,
        "manualReplicaEnabled": False,
    }
    assert shown[0]["terminatedAt"] is None


@covers("7", "good")
async def test_agents_of_all_tenants(field: Field, clock: FakeClock) -> None:
    gone = await register(field, "i-0", logical_agent_id="gone")
    await field.delete(f"/api/client/agents/{gone}")
    first = await register(field)
    clock.advance(timedelta(seconds=5))
    second = await register(field, "i-2", logical_agent_id="search", hostname="Web")

    reply = await field.get(f"/api/admin/agents?client_id={field.tenant.id}&status=all", by=ADMIN)

    assert [item["id"] for item in reply["agents"]] == [second, first, gone]
    assert (reply["total"], reply["filters"]) == (
        3,
        {"status": None, "client_id": field.tenant.id, "search": None},
    )
    assert without(reply["agents"][0], "lastHeartbeatAt", "createdAt") == {
        "id": second,
        "logicalAgentId": "search",
        "hostname": "Web",
        "clientId": field.tenant.id,
        "clientName": "Test",
        "instanceId": "i-2",
        "instanceType": TYPE,
        "region": REGION,
        "az": ZONES[0],
        "currentMode": "spot",
        "currentPoolId": POOL,
        "status": "online",
        "enabled": True,
        "autoSwitchEnabled": True,
        "version": None,
    }
    found = await field.get("/api/admin/agents?search=wEB&status=online", by=ADMIN)
    assert [item["id"] for item in found["agents"]] == [second]
    assert found["filters"] == {"status": "online", "client_id": None, "search": "wEB"}


async def test_a_long_list_goes_on_where_it_stopped(field: Field) -> None:
    for number in range(3):
        await register(field, f"i-{number}", logical_agent_id=f"a-{number}")
    path, seen = f"/api/client/{field.tenant.id}/agents?limit=2", []
    async with field.send("GET", path) as first:
        seen += [item["id"] for item in await first.json()]
        assert first.headers["X-Total-Count"] == "3"
        cursor = first.headers["X-Next-Cursor"]
    async with field.send("GET", f"{path}&cursor={cursor}") as rest:
        seen += [item["id"] for item in await rest.json()]
        assert "X-Next-Cursor" not in rest.headers
    assert len(set(seen)) == 3


@covers("7", "bad")
async def test_a_status_that_is_none(field: Field) -> None:
    await field.refused(
        "VALIDATION_ERROR", "GET", "/api/admin/agents?status=asleep", status=400, by=ADMIN
    )


@covers("7 71", "foreign")
async def test_administrators_pages_are_theirs(field: Field) -> None:
    for route in ("agents", "agents/health-summary"):
        await field.refused("FORBIDDEN", "GET", f"/api/admin/{route}", status=403)


@covers("71", "good")
async def test_health_of_all_fleets(field: Field, clock: FakeClock) -> None:
    old = await register(field, "i-1", logical_agent_id="old", hostname="h")
    await field.post(f"/api/agents/{old}/heartbeat", {"status": "offline", "instance_id": "i-1"})
    gone = await register(field, "i-3", logical_agent_id="gone")
    await field.delete(f"/api/client/agents/{gone}")
    clock.advance(timedelta(minutes=16))
    await register(field, "i-2")

    reply = await field.get("/api/admin/agents/health-summary", by=ADMIN)

    assert 0 <= reply.pop("averageHeartbeatDelay") < 5
    (offline,) = reply.pop("recent_offline")
    assert without(offline, "last_heartbeat") == {
        "agent_id": old,
        "hostname": "h",
        "client_name": "Test",
        "offline_duration_minutes": 16,
    }
    mine = {"clientId": field.tenant.id, "clientName": "Test"}
    assert reply == {
        "totalAgents": 2,
        "activeAgents": 1,
        "healthyAgents": 1,
        "warningAgents": 0,
        "criticalAgents": 1,
        "healthPercentage": 50,
        "clientBreakdown": [mine | {"totalAgents": 2, "activeAgents": 1, "healthyAgents": 1}],
        "total_agents": 2,
        "online": 1,
        "offline": 1,
        "deleted": 1,
        "by_client": [
            {
                "client_id": field.tenant.id,
                "client_name": "Test",
                "online": 1,
                "offline": 1,
                "total": 2,
            }
        ],
        "heartbeat_distribution": {"healthy": 1, "degraded": 0, "critical": 1},
    }


@covers("71", "bad")
async def test_health_needs_a_token(field: Field) -> None:
    await field.refused(
        "INVALID_TOKEN", "GET", "/api/admin/agents/health-summary", status=401, by="nonsense"
    )


@covers("43", "good")
async def test_a_post_mortem_of_the_primary_takes_the_agent_offline(field: Field) -> None:
    agent_id = await register(field)
    await register(field, "i-2")
    path = f"/api/agents/{agent_id}/termination"
    body = {"reason": "spot", "termination_type": "interruption", "anything": {"else": 1}}

    assert await field.post(path, body | {"instance_id": "i-1"}) == {"success": True}
    assert (await field.get(f"/api/agents/{agent_id}"))["status"] == "online"

    assert await field.post(path, body | {"instance_id": "i-2"}) == {"success": True}
    assert await field.post(path, body | {"instance_id": "i-2"}) == {"success": True}
    shown = await field.get(f"/api/agents/{agent_id}")
    assert (shown["status"], shown["instance_id"]) == ("offline", None)


@covers("X15", "good")
async def test_a_goodbye_by_name(field: Field) -> None:
    agent_id = await register(field)
    await register(field, "i-2")
    path = f"/api/agents/{agent_id}/shutdown"
    for instance_id, status in (("i-1", "online"), ("i-2", "offline")):
        body = {"cloud_instance_id": instance_id, "metadata": {"why": "update"}}
        assert await field.post(path, body) == {"success": True}
        assert (await field.get(f"/api/agents/{agent_id}"))["status"] == status


@covers("X6", "good")
async def test_an_agent(field: Field) -> None:
    agent_id = await register(field)
    reply = await field.get(f"/api/agents/{agent_id}")
    assert without(reply, "last_heartbeat_at", "created_at") == {
        "id": agent_id,
        "agent_id": agent_id,
        "client_id": field.tenant.id,
        "logical_agent_id": "chat",
        "hostname": None,
        "instance_id": "i-1",
        "instance_type": TYPE,
        "region": REGION,
        "az": ZONES[0],
        "current_mode": "spot",
        "current_pool_id": POOL,
        "status": "online",
        "enabled": True,
        "auto_switch_enabled": True,
        "manual_replica_enabled": False,
        "auto_terminate_enabled": True,
        "terminate_wait_seconds": 300,
        "replica_count": 0,
        "config_version": 1,
        "agent_version": None,
    }
    assert reply["created_at"].endswith("Z")


@covers("X18", "good")
async def test_an_agent_removes_itself_by_its_primary_only(field: Field) -> None:
    agent_id = await register(field)
    await register(field, "i-2")
    path = "/api/agents/uninstall"
    nothing = {
        "success": True,
        "message": "no agent of that name or instance serves",
        "agent_id": None,
    }
    for instance_id in ("i-1", "i-unknown"):
        assert await field.post(path, {"instance_id": instance_id}) == nothing
    assert (await field.get(f"/api/agents/{agent_id}"))["status"] == "online"

    assert await field.post(path, {"instance_id": "i-2", "reason": "moved"}) == {
        "success": True,
        "message": "the agent was removed",
        "agent_id": agent_id,
    }
    await field.refused("NOT_FOUND", "GET", f"/api/agents/{agent_id}", status=404)


@covers("X18", "bad")
async def test_uninstalling_needs_a_name(field: Field) -> None:
    await field.refused("VALIDATION_ERROR", "POST", "/api/agents/uninstall", {}, status=400)


@covers("X18", "foreign")
async def test_another_tenants_agent_cannot_be_uninstalled(field: Field) -> None:
    agent_id = await register(field)
    for body in (
        {"agent_id": agent_id},
        {"instance_id": "i-1"},
        {"logical_agent_id": "chat"},
    ):
        reply = await field.post("/api/agents/uninstall", body, by=field.foreign)
        assert reply["agent_id"] is None
    assert (await field.get(f"/api/agents/{agent_id}"))["status"] == "online"


async def test_registration_beyond_the_quota_is_429(field: Field) -> None:
    stub = field.plane.stub(agent_pb2_grpc.AgentServiceStub)
    await stub.UpdateFleetSettings(
        agent_pb2.UpdateFleetSettingsRequest(
            tenant_id=field.tenant.id, max_agents=1, terminate_wait_seconds=60
        ),
        metadata=ADMIN_METADATA,
    )
    agent_id = await register(field)
    await field.refused(
        "QUOTA_EXCEEDED",
        "POST",
        "/api/agents/register",
        machine("i-2", logical_agent_id="two"),
        status=429,
    )
    assert await register(field) == agent_id
    assert await register(field, "i-3") == agent_id
    assert (await field.get(f"/api/agents/{agent_id}"))["terminate_wait_seconds"] == 60
