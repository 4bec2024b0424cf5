"""Legacy API of recommendations, manual switches, decisions and engines."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from aiohttp import FormData

from tests.decisions import models
from tests.decisions.test_cel import rule, rule_set
from tests.decisions.world import A, B, C, World
from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.support.clock import FakeClock
from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.link import Hand
from tests.support.plane import ADMIN_TOKEN, Tenant

CALM = rule_set(rule("false"), name="calm")
EAGER = rule_set(rule("true"), name="eager")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture
async def world(field: Field) -> Any:
    """The default tenant's agents in a market."""
    hand = Hand(field.plane, field.tenant)
    world = World(field.plane, hand)
    await world.hold_loop()
    yield world
    await hand.close()


@pytest.fixture
async def agent_id(world: World) -> str:
    """An agent with a better pool in zone b."""
    await world.market(0.5, 0.3, 0.4)
    return (await world.agent())[0]


async def upload(
    field: Field,
    path: str,
    *files: tuple[str, bytes],
    part: str = "files",
    status: int = 200,
    by: str | Tenant = ADMIN,
    headers: dict[str, str] | None = None,
    **texts: str,
) -> Any:
    """Send a multipart body."""
    form = FormData()
    for name, data in files:
        form.add_field(part, data, filename=name, content_type="application/octet-stream")
    for name, text in texts.items():
        form.add_field(name, text)
    token = {"X-Admin-Token": ADMIN_TOKEN}
    if isinstance(by, Tenant):
        token = {"Authorization": f"Bearer {by.key}"}
    sent = {**token, **(headers or {})}
    async with field.http.post(path, data=form, headers=sent) as response:
        reply = await response.json()
        assert response.status == status, (response.status, reply)
        return reply


@covers("45", "good")
async def test_a_recommendation(field: Field, agent_id: str) -> None:
    reply = await field.get(f"/api/agents/{agent_id}/switch-recommendation")
    gates = reply.pop("gates")
    assert reply == {
        "decision_type": "switch_to_spot",
        "recommended_pool_id": B,
        "risk_score": 0,
        "expected_savings": 0.2,
        "confidence": 0.7,
        "reason": f"{B} is cheaper by 40.0 %",
        "agent_id": agent_id,
        "auto_switch_enabled": True,
        "will_auto_execute": True,
        "current_pool": {"id": A, "name": f"{TYPE} ({ZONES[0]})", "az": ZONES[0]},
        "alternative_pools": [
            {"id": B, "name": f"{TYPE} ({ZONES[1]})", "az": ZONES[1], "spot_price": 0.3},
            {"id": C, "name": f"{TYPE} ({ZONES[2]})", "az": ZONES[2], "spot_price": 0.4},
        ],
    }
    assert gates[1] == {"name": "min_savings", "passed": True, "value": "40", "limit": "15"}
    assert [list(gate) for gate in gates] == [["name", "passed", "value", "limit"]] * 8


@covers("45 46 47", "bad")
async def test_an_id_that_is_none_is_not_found(field: Field) -> None:
    for method, path in (
        ("GET", "switch-recommendation"),
        ("POST", "issue-switch-command"),
        ("POST", "decide"),
    ):
        for named in ("nonsense", UNKNOWN_ID):
            body = {"target_mode": "ondemand"} if method == "POST" else None
            await field.refused(
                "NOT_FOUND", method, f"/api/agents/{named}/{path}", body, status=404
            )


@covers("45 46 47", "foreign")
async def test_another_tenants_agent_is_not_found(field: Field, agent_id: str) -> None:
    for method, path in (
        ("GET", "switch-recommendation"),
        ("POST", "issue-switch-command"),
        ("POST", "decide"),
    ):
        await field.refused(
            "NOT_FOUND",
            method,
            f"/api/agents/{agent_id}/{path}",
            {"target_mode": "ondemand"} if method == "POST" else None,
            by=field.foreign,
            status=404,
        )


@covers("46", "good")
async def test_manual_switch(field: Field, agent_id: str) -> None:
    path = f"/api/agents/{agent_id}/issue-switch-command"
    reply = await field.post(
        path, {"target_mode": "spot", "target_pool_id": B, "reason": "dear"}, status=201
    )
    UUID(reply.pop("command_id"))
    assert reply == {
        "success": True,
        "agent_id": agent_id,
        "target_mode": "spot",
        "target_pool_id": B,
        "reason": "dear",
        "message": "the switch is queued",
        "auto_switch_enabled": True,
    }
    there = await field.post(path, {"target_mode": "spot", "target_pool_id": A}, status=200)
    assert there == {
        "success": False,
        "message": "the agent is served from there already",
        "current_mode": "spot",
        "current_pool_id": A,
    }


@covers("46", "bad")
async def test_manual_switch_errors_follow_the_contract(
    field: Field, world: World, agent_id: str
) -> None:
    path = f"/api/agents/{agent_id}/issue-switch-command"
    spot = {"target_mode": "spot", "target_pool_id": B}
    for body, code in (
        ({"target_mode": "reserved"}, "VALIDATION_ERROR"),
        ({}, "VALIDATION_ERROR"),
        ({"target_mode": "spot"}, "POOL_REQUIRED"),
        ({"target_mode": "spot", "target_pool_id": "x"}, "UNKNOWN_POOL"),
        ({**spot, "priority": 101}, "VALIDATION_ERROR"),
    ):
        await field.refused(code, "POST", path, body, status=400)
    await world.calls.configure(agent_id, min_pool_duration_hours=2)
    await field.refused("DWELL_NOT_REACHED", "POST", path, spot, status=409)
    await world.calls.configure(agent_id, min_pool_duration_hours=0, max_switches_per_day=0)
    await field.refused("SWITCH_LIMIT_REACHED", "POST", path, spot, status=409)
    await world.calls.configure(agent_id, max_switches_per_day=3)
    await field.post(path, spot, status=201)
    await field.refused(
        "SWITCH_IN_PROGRESS", "POST", path, {**spot, "target_pool_id": C}, status=409
    )
    await world.calls.configure(agent_id, enabled=False)
    await field.refused("AGENT_DISABLED", "POST", path, spot, status=400)
    await world.calls.configure(agent_id, auto_switch_enabled=False)
    reply = await field.refused("AUTO_SWITCH_DISABLED", "POST", path, spot, status=403)
    assert reply["auto_switch_enabled"] is False
    assert reply["hint"]


@covers("47", "good")
async def test_a_decision_by_the_shape_of_loop_agents(field: Field, agent_id: str) -> None:
    reply = await field.post(
        f"/api/agents/{agent_id}/decide",
        {
            "instance": {
                "instance_id": "i-chat",
                "instance_type": TYPE,
                "region": REGION,
                "current_mode": "spot",
                "current_pool_id": A,
            },
            "pricing": {
                "on_demand_price": 1.0,
                "current_spot_price": 0.5,
                "spot_pools": [
                    {"pool_id": C, "instance_type": TYPE, "az": ZONES[2], "price": "0.1"},
                    {"pool_id": B, "az": None, "price": None},
                ],
            },
        },
    )
    UUID(reply.pop("decision_id"))
    reason = f"{C} is cheaper by 80.0 %"
    assert reply == {
        "instance_id": "i-chat",
        "risk_score": 0,
        "recommended_action": "switch",
        "recommended_mode": "spot",
        "recommended_pool_id": C,
        "expected_savings_per_hour": 0.4,
        "allowed": True,
        "reason": reason,
        "action": "SWITCH",
        "confidence": 0.7,
        "reasoning": reason,
    }


@covers("47", "good")
async def test_a_decision_by_the_shape_of_advisory_agents(field: Field, agent_id: str) -> None:
    path = f"/api/agents/{agent_id}/decide"
    flat = {
        "spot_pools": [{"pool_id": A, "az": ZONES[0], "price": 0.1}],
        "ondemand_price": 1,
        "current_az": ZONES[0],
    }
    reply = await field.post(path, flat)
    assert (reply["action"], reply["recommended_pool_id"], reply["allowed"]) == (
        "NO_ACTION",
        A,
        True,
    )
    assert (await field.post(path, {}))["action"] == "SWITCH"


@covers("47", "bad")
async def test_a_decision_with_bad_prices_is_refused_by_name(field: Field, agent_id: str) -> None:
    path = f"/api/agents/{agent_id}/decide"
    for body in ({"spot_pools": "x" * 3, "pricing": 3}, {"spot_pools": [{"price": "dear"}]}):
        await field.refused("VALIDATION_ERROR", "POST", path, body, status=400)


@covers("22", "good")
async def test_agents_with_their_decisions(
    field: Field, world: World, agent_id: str, clock: FakeClock
) -> None:
    await field.post(f"/api/agents/{agent_id}/decide", {})
    clock.advance(timedelta(minutes=3))
    (reply,) = await field.get(f"/api/client/{field.tenant.id}/agents/decisions")
    assert list(reply) == [
        "agentId",
        "agentName",
        "status",
        "currentMode",
        "currentPoolId",
        "isHealthy",
        "lastHeartbeat",
        "lastDecision",
        "decisionHistory",
        "pricingHealth",
        "recentActivity",
    ]
    assert (reply["agentId"], reply["agentName"], reply["status"]) == (agent_id, "chat", "online")
    assert (reply["currentMode"], reply["currentPoolId"], reply["isHealthy"]) == ("spot", A, True)
    assert reply["lastHeartbeat"] == "3 min ago"
    assert TIME.fullmatch(reply["lastDecision"].pop("time"))
    assert reply["lastDecision"] == {
        "type": "switch_spot",
        "elapsed": {"value": 3, "unit": "min", "minutes": 3, "formatted": "3 min"},
    }
    decision = reply["decisionHistory"][0]
    assert TIME.fullmatch(decision.pop("time"))
    assert decision == {
        "type": "switch_spot",
        "action": "switch_spot",
        "riskScore": 0,
        "expectedSavings": 0.2,
        "currentMode": "spot",
    }
    assert reply["pricingHealth"] == {
        "status": "unhealthy",
        "recentReportsCount": 0,
        "recentReports": [],
    }
    assert reply["recentActivity"]["healthStatus"] == {
        "overall": "healthy",
        "heartbeat": "healthy",
        "activity": "healthy",
        "recentReportsCount": 0,
        "decisionCount": 1,
    }
    kinds = [event["type"] for event in reply["recentActivity"]["systemEvents"]]
    assert "agent_registered" in kinds
    assert list(reply["recentActivity"]["systemEvents"][0]) == [
        "type",
        "severity",
        "message",
        "time",
    ]


@covers("22", "good")
async def test_five_price_reports_are_healthy_pricing(field: Field, world: World) -> None:
    agent_id, stream = await world.agent()
    for _ in range(6):
        await world.hand.prices(stream)
    (reply,) = await field.get(f"/api/client/{field.tenant.id}/agents/decisions")
    assert reply["agentId"] == agent_id
    assert reply["pricingHealth"]["status"] == "healthy"
    assert reply["pricingHealth"]["recentReportsCount"] == 6
    assert len(reply["pricingHealth"]["recentReports"]) == 5
    report = reply["recentActivity"]["pricingReports"][0]
    assert TIME.fullmatch(report.pop("time"))
    assert report == {"onDemandPrice": 0, "spotPrice": 0.3}
    assert reply["lastDecision"] is None


@covers("22", "foreign")
@covers("22", "bad")
async def test_another_tenants_page_is_not_found(field: Field, agent_id: str) -> None:
    for named in (field.tenant.id, UNKNOWN_ID, "nonsense"):
        path = f"/api/client/{named}/agents/decisions"
        await field.refused("NOT_FOUND", "GET", path, by=field.foreign, status=404)
    assert agent_id


@covers("48", "good")
async def test_an_engine_is_uploaded_and_live(field: Field) -> None:
    reply = await upload(field, "/api/admin/decision-engine/upload", ("calm.json", CALM))
    UUID(reply.pop("sessionId"))
    assert reply == {
        "success": True,
        "message": "engine calm 3 decides now",
        "files": ["calm.json"],
        "restarting": False,
        "engine_status": {"loaded": True, "type": "cel", "version": "3"},
    }
    reply = await upload(
        field,
        "/api/admin/decision-engine/upload",
        ("cheap.onnx", models.linear(price=-1)),
        part="engine",
        headers={"Content-Type": "application/json"},
    )
    assert reply["engine_status"]["type"] == "onnx"


@covers("48 49", "bad")
async def test_what_is_no_engine_is_refused_with_a_hint(field: Field) -> None:
    for path in ("/api/admin/decision-engine/upload", "/api/admin/ml-models/upload"):
        reply = await upload(field, path, ("model.pkl", b"\x80\x04x"), status=400)
        assert reply["code"] == "UNSUPPORTED_MODEL_FORMAT"
        assert "onnx" in reply["hint"]
        reply = await upload(field, path, ("model.onnx", b"text"), status=400)
        assert reply["code"] == "MODEL_INVALID"
        assert "onnx" in reply["hint"]
        reply = await upload(field, path, note="no file", status=400)
        assert reply["code"] == "VALIDATION_ERROR"
    assert await field.get("/api/admin/ml-models/sessions", by=ADMIN) == []


@covers("49 50 51 52", "good")
async def test_models_from_upload_to_fallback(field: Field) -> None:
    reply = await upload(
        field,
        "/api/admin/ml-models/upload",
        ("cheap.onnx", models.linear(price=-1)),
        part="model",
        model_name="cheap",
        model_version="2",
        model_type="ranker",
    )
    first = reply.pop("sessionId")
    size = reply["model_status"]["totalSize"]
    assert reply == {
        "success": True,
        "message": "uploaded; activate the session to let it decide",
        "files": ["cheap.onnx"],
        "requiresRestart": False,
        "model_status": {
            "filesUploaded": 1,
            "totalSize": size,
            "sessionType": "pending_activation",
        },
    }
    (session,) = await field.get("/api/admin/ml-models/sessions", by=ADMIN)
    assert TIME.fullmatch(session.pop("createdAt"))
    assert session == {
        "id": first,
        "kind": "model",
        "status": "uploaded",
        "isLive": False,
        "isFallback": False,
        "fileCount": 1,
        "files": ["cheap.onnx"],
        "totalSize": size,
        "activatedAt": None,
        "shadow": None,
    }
    live = await field.post("/api/admin/ml-models/activate", {"sessionId": first}, by=ADMIN)
    assert live == {
        "success": True,
        "message": "cheap 2 decides now",
        "sessionId": first,
        "restarting": False,
        "model_status": {"loaded": True, "type": "onnx"},
    }
    second = (await upload(field, "/api/admin/ml-models/upload", ("e.json", EAGER)))["sessionId"]
    await field.post("/api/admin/ml-models/activate", {"model_id": second}, by=ADMIN)
    back = await field.post("/api/admin/ml-models/fallback", by=ADMIN)
    assert back == {
        "success": True,
        "message": "cheap 2 decides again",
        "fallbackSessionId": first,
        "restarting": False,
        "model_status": {"loaded": True, "type": "onnx"},
    }
    sessions = await field.get("/api/admin/ml-models/sessions", by=ADMIN)
    assert [(s["id"], s["isLive"], s["isFallback"]) for s in sessions] == [
        (second, False, True),
        (first, True, False),
    ]
    assert sessions[1]["shadow"] == {"evaluated": 0, "agreement": 1, "errors": 0, "p95_ms": 0}


@covers("50 51 52", "bad")
async def test_sessions_that_are_not_there(field: Field) -> None:
    path = "/api/admin/ml-models/activate"
    await field.refused("VALIDATION_ERROR", "POST", path, {}, by=ADMIN, status=400)
    body = {"sessionId": UNKNOWN_ID}
    await field.refused("NOT_FOUND", "POST", path, body, by=ADMIN, status=404)
    fallback = "/api/admin/ml-models/fallback"
    await field.refused("NOT_FOUND", "POST", fallback, by=ADMIN, status=404)
    await field.refused("ROUTE_NOT_FOUND", "GET", f"{path}/sessions", by=ADMIN, status=404)


@covers("50", "bad")
async def test_an_engine_that_fails_in_shadow_is_not_activated(
    field: Field, world: World, agent_id: str
) -> None:
    await world.market(0.5, 0.49, 0.48)
    await world.loop()
    assert agent_id
    bad = rule_set(rule("1 / (limits.max_switches_per_day - 3) == 1"))
    reply = await upload(field, "/api/admin/ml-models/upload", ("bad.json", bad))
    body = {"sessionId": reply["sessionId"], "force": True}
    path = "/api/admin/ml-models/activate"
    await field.refused("SHADOW_FAILED", "POST", path, body, by=ADMIN, status=409)


@covers("48 49 50 51 52", "foreign")
async def test_engines_are_the_administrators(field: Field) -> None:
    for path in ("/api/admin/decision-engine/upload", "/api/admin/ml-models/upload"):
        reply = await upload(field, path, ("calm.json", CALM), by=field.tenant, status=403)
        assert reply["code"] == "FORBIDDEN"
    for method, path in (
        ("POST", "/api/admin/ml-models/activate"),
        ("POST", "/api/admin/ml-models/fallback"),
        ("GET", "/api/admin/ml-models/sessions"),
    ):
        await field.refused("FORBIDDEN", method, path, status=403)
