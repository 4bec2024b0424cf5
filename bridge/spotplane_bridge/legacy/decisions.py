"""Routes of recommendations, manual switches, decisions and engines (contract, 4.3.3 and 4.7)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import decision_pb2 as pb

from spotplane_bridge.body_limits import OBJECT_BYTES
from spotplane_bridge.legacy.requests import Parameter, parameter
from spotplane_bridge.legacy.response_shapes import (
    Array,
    Computed,
    Either,
    Shape,
    each,
    made,
    nested,
    number,
    optional,
    usd,
)
from spotplane_bridge.legacy.routes import LegacyRoute, route
from spotplane_bridge.legacy.uploads import Upload

_TEXT: Final = {"type": "string"}
_PRICE_DECIMALS: Final = 6


def _healthy(is_healthy: bool) -> str:
    return "healthy" if is_healthy else "unhealthy"


def _text(name: str) -> Computed:
    """Return a number as this API's text; None when it is not known."""

    def get(message: Any) -> str | None:
        return f"{round(getattr(message, name), 6):g}" if message.HasField(name) else None

    return made(get, type=["string", "null"])


_POOL: Final = Shape(id="id", name="name", az="az")
_GATE: Final = Shape(name="name", passed="passed", value=_text("value"), limit=_text("limit"))

_RECOMMENDATION: Final = Shape(
    decision_type="decision_type",
    recommended_pool_id=optional("recommended_pool_id"),
    risk_score=number("risk_score", decimals=4),
    expected_savings=number("expected_savings_usd_per_hour", decimals=_PRICE_DECIMALS),
    confidence=number("confidence", decimals=4),
    reason="reason",
    agent_id="agent_id",
    auto_switch_enabled="auto_switch_enabled",
    will_auto_execute="will_auto_execute",
    current_pool=nested("current_pool", _POOL),
    alternative_pools=each(
        "alternative_pools", Shape(_POOL, spot_price=usd("spot_price_nanousd", absent=0))
    ),
    gates=each("gates", _GATE),
)

_ISSUED: Final = Shape(
    success=True,
    command_id="command_id",
    agent_id="agent_id",
    target_mode="target_mode",
    target_pool_id=optional("target_pool_id"),
    reason="reason",
    message="message",
    auto_switch_enabled="auto_switch_enabled",
)
_THERE_ALREADY: Final = Shape(
    success=False,
    message="message",
    current_mode="current_mode",
    current_pool_id=optional("current_pool_id"),
)

_DECIDED: Final = Shape(
    decision_id="decision_id",
    instance_id="instance_id",
    risk_score=number("risk_score", decimals=4),
    recommended_action="recommended_action",
    recommended_mode="recommended_mode",
    recommended_pool_id=optional("recommended_pool_id"),
    expected_savings_per_hour=number("expected_savings_usd_per_hour", decimals=_PRICE_DECIMALS),
    allowed="allowed",
    reason="reason",
    action=made(
        lambda m: "NO_ACTION" if m.recommended_action == "stay" else "SWITCH", type="string"
    ),
    confidence=number("confidence", decimals=4),
    reasoning="reason",
)
_SEEN_POOLS: Final[tuple[Parameter | str, ...]] = (
    parameter("pool_id", "id", max_length=128),
    parameter("az", "availability_zone", max_length=32),
    parameter("price", "spot_price", field="price_nanousd"),
)

# Decisions of agents, section 4.3.3.
_DECISION: Final = Shape(
    type="type",
    action="type",
    riskScore=number("risk_score", decimals=4),
    expectedSavings=number("expected_savings_usd_per_hour", decimals=_PRICE_DECIMALS),
    currentMode="current_mode",
    time="decided_at",
)
_REPORT: Final = Shape(
    time="reported_at",
    onDemandPrice="on_demand_price_nanousd",
    spotPrice="spot_price_nanousd",
)
_EVENT: Final = Shape(type="type", severity="severity", message="message", time="occurred_at")


def _elapsed(agent: pb.AgentDecisions, since: Timestamp) -> timedelta:
    return max(timedelta(), agent.read_at.ToDatetime(UTC) - since.ToDatetime(UTC))


def _largest_unit(elapsed: timedelta) -> dict[str, Any]:
    """Return a duration in its largest whole unit."""
    minutes = int(elapsed.total_seconds() // 60)
    for unit, size in (("day", 1440), ("hr", 60)):
        if minutes >= size:
            return _duration(minutes // size, unit, minutes)
    return _duration(minutes, "min", minutes)


def _duration(value: int, unit: str, minutes: int) -> dict[str, Any]:
    return {"value": value, "unit": unit, "minutes": minutes, "formatted": f"{value} {unit}"}


def _last_heartbeat(agent: pb.AgentDecisions) -> str:
    if not agent.HasField("last_heartbeat_at"):
        return "Never"
    return f"{_largest_unit(_elapsed(agent, agent.last_heartbeat_at))['formatted']} ago"


def _last_decision(agent: pb.AgentDecisions) -> dict[str, Any] | None:
    if not agent.decisions:
        return None
    last = agent.decisions[0]
    at = last.decided_at.ToJsonString()
    return {
        "type": last.type,
        "time": at,
        "elapsed": _largest_unit(_elapsed(agent, last.decided_at)),
    }


_AGENT: Final = Shape(
    agentId="agent_id",
    agentName="agent_name",
    status="status",
    currentMode="current_mode",
    currentPoolId=optional("current_pool_id"),
    isHealthy="healthy",
    lastHeartbeat=made(_last_heartbeat, type="string"),
    lastDecision=made(_last_decision, type=["object", "null"]),
    decisionHistory=each("decisions", _DECISION),
    pricingHealth=Shape(
        status=made(lambda m: _healthy(m.pricing_healthy), **_TEXT),
        recentReportsCount="recent_report_count",
        recentReports=each("price_reports", _REPORT),
    ),
    recentActivity=Shape(
        pricingReports=each("price_reports", _REPORT),
        systemEvents=each("events", _EVENT),
        healthStatus=Shape(
            overall=made(lambda m: _healthy(m.healthy), **_TEXT),
            heartbeat=made(lambda m: _healthy(m.heartbeat_healthy), **_TEXT),
            activity=made(lambda m: _healthy(m.activity_healthy), **_TEXT),
            recentReportsCount="recent_report_count",
            decisionCount="recent_decision_count",
        ),
    ),
)

_ENGINE: Final = Shape(loaded="engine.loaded", type="engine.type")


def _uploaded_model(texts: Mapping[str, str]) -> pb.UploadModelRequest:
    return pb.UploadModelRequest(
        model_name=texts.get("model_name"),
        model_version=texts.get("model_version"),
        model_type=texts.get("model_type"),
    )


_ENGINE_UPLOAD: Final = Upload(
    files=("files", "engine"),
    begin=lambda file, _part: pb.UploadEngineRequest(file_name=file),
    chunk=lambda data: pb.UploadEngineRequest(data=data),
    finish=lambda texts: pb.UploadEngineRequest(force=texts.get("force", "").lower() == "true"),
)
_MODEL_UPLOAD: Final = Upload(
    files=("files", "model"),
    begin=lambda file, _part: pb.UploadModelRequest(file_name=file),
    chunk=lambda data: pb.UploadModelRequest(data=data),
    finish=_uploaded_model,
)

_SESSION: Final = Shape(
    id="id",
    kind="kind",
    status="status",
    isLive="live",
    isFallback="fallback",
    fileCount=made(lambda m: len(m.files), type="integer"),
    files=made(lambda m: [file.name for file in m.files], type="array"),
    totalSize="total_bytes",
    createdAt="created_at",
    activatedAt="activated_at",
    shadow=nested(
        "shadow",
        Shape(
            evaluated="evaluated",
            agreement=number("agreement", decimals=4),
            errors="errors",
            p95_ms=number("p95_ms", decimals=3, absent=0),
        ),
    ),
)

ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "22",
        "GET /api/client/{client_id}/agents/decisions",
        "DecisionService.ListAgentDecisions",
        Array("agents", _AGENT),
    ),
    route(
        "45",
        "GET /api/agents/{agent_id}/switch-recommendation",
        "DecisionService.GetRecommendation",
        _RECOMMENDATION,
    ),
    route(
        "46",
        "POST /api/agents/{agent_id}/issue-switch-command",
        "DecisionService.IssueSwitch",
        Either(lambda m: m.success, _ISSUED, _THERE_ALREADY),
        body=(
            parameter("target_mode", max_length=32),
            parameter("target_pool_id", "pool_id", max_length=128),
            parameter("reason", max_length=500),
            "priority",
        ),
        errors={"AUTO_SWITCH_DISABLED": {"auto_switch_enabled": False}},
    ),
    route(
        "47",
        "POST /api/agents/{agent_id}/decide",
        "DecisionService.Decide",
        _DECIDED,
        body=(
            parameter(
                "instance",
                of=(
                    parameter("instance_id", max_length=128),
                    parameter("instance_type", max_length=64),
                    parameter("region", max_length=64),
                    parameter("current_mode", "mode", max_length=32),
                    parameter("current_pool_id", "pool_id", max_length=128),
                ),
            ),
            parameter(
                "pricing",
                of=(
                    parameter("on_demand_price", "ondemand_price", field="on_demand_price_nanousd"),
                    parameter("current_spot_price", field="current_spot_price_nanousd"),
                    parameter("spot_pools", of=_SEEN_POOLS),
                ),
            ),
            parameter("spot_pools", field="pricing.spot_pools", of=_SEEN_POOLS),
            parameter("ondemand_price", "on_demand_price", field="pricing.on_demand_price_nanousd"),
            parameter("current_az", max_length=32),
        ),
        max_body_bytes=OBJECT_BYTES,
    ),
    route(
        "48",
        "POST /api/admin/decision-engine/upload",
        "DecisionService.UploadEngine",
        Shape(
            success=True,
            message="message",
            files="files",
            sessionId="session_id",
            restarting=False,
            engine_status=Shape(_ENGINE, version="engine.version"),
        ),
        upload=_ENGINE_UPLOAD,
    ),
    route(
        "49",
        "POST /api/admin/ml-models/upload",
        "DecisionService.UploadModel",
        Shape(
            success=True,
            message="message",
            files="files",
            sessionId="session_id",
            requiresRestart=False,
            model_status=Shape(
                filesUploaded=made(lambda m: len(m.files), type="integer"),
                totalSize="total_bytes",
                sessionType=made(lambda _m: "pending_activation", const="pending_activation"),
            ),
        ),
        upload=_MODEL_UPLOAD,
    ),
    route(
        "50",
        "POST /api/admin/ml-models/activate",
        "DecisionService.ActivateSession",
        Shape(
            success=True,
            message="message",
            sessionId="session_id",
            restarting=False,
            model_status=_ENGINE,
        ),
        body=(parameter("sessionId", "session_id", "model_id", field="session_id"), "force"),
    ),
    route(
        "51",
        "POST /api/admin/ml-models/fallback",
        "DecisionService.ActivateFallback",
        Shape(
            success=True,
            message="message",
            fallbackSessionId="session_id",
            restarting=False,
            model_status=_ENGINE,
        ),
    ),
    route(
        "52",
        "GET /api/admin/ml-models/sessions",
        "DecisionService.ListSessions",
        Array("sessions", _SESSION),
    ),
)
