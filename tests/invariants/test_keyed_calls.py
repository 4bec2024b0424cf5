"""Under an idempotency key, every method that changes something commits it with its answer.

`tests/parity` does the same for the methods whose annotations have a REST path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import pytest
from spotplane_bridge.routes import load_routes
from spotplane_server.kernel.auth import policy

from tests.decisions.test_cel import rule, rule_set
from tests.decisions.world import Engines
from tests.invariants import rpcs
from tests.invariants.test_foreign_tenant import estate
from tests.nodes.world import Nodes
from tests.support.atomicity import INDEPENDENT, Atomicity
from tests.support.keyed import keyed
from tests.support.plane import ADMIN, Plane, Tenant, running
from tests.tenants.api import rows

CALM: Final = rule_set(rule("false"), name="calm")
IN_PARITY: Final = {f"{route.service}/{route.descriptor.name}" for route in load_routes()}
INSERT_NOTIFICATION: Final = """
    INSERT INTO notifications (tenant_id, id, severity, message, created_at)
    VALUES ($1, $2, 'info', 'm', now())
"""
# What the requests of `estate` lack.
FIELDS: Final[dict[str, dict[str, Any]]] = {
    "AgentService/SetAgentEnabled": {"enabled": False},
    "AgentService/UpdateFleetSettings": {"max_agents": 1000},
    "CallerService/MintTicket": {"path": "/api/events/stream"},
    "NotificationService/CreatePricingAlert": {"threshold_nanousd": 1},
    "ReplicaService/PollReplicas": {"status": "launching"},
    "ReplicaService/ReportReplicaStatus": {"status": "terminated"},
    "TenantService/CreateClient": {"name": "Acme"},
}
# Methods that only ask, although the same right is needed.
READS: Final = {"MarketService/SimulateSwitch"}
# Methods whose requests name what another call made.
IN_STEPS: Final = {
    "DecisionService/ActivateFallback",
    "DecisionService/ActivateSession",
    "DecisionService/IssueSwitch",
    "DecisionService/UploadEngine",
    "DecisionService/UploadModel",
    "FleetService/BulkExecute",
    "FleetService/ForceSwitch",
    "NodeService/ReportNodeOperation",
    "NotificationService/DeletePricingAlert",
    "NotificationService/MarkRead",
    "TenantService/RevealClientToken",
}


def _changing() -> list[str]:
    """Methods that may change something, and that `tests/parity` does not call."""
    return [
        name
        for name, rpc in rpcs.ALL.items()
        if not rpc.method.server_streaming
        and name not in IN_PARITY
        and (
            policy.METHODS[rpc.path].scope in {"admin:write", "nodes:write"}
            or name in FIELDS.keys() | IN_STEPS
        )
        and (name in IN_STEPS or rpc.path not in INDEPENDENT)
        and name not in READS
    ]


@pytest.fixture
def atomicity() -> Atomicity:
    """The statements of all calls."""
    return Atomicity()


@pytest.fixture
async def plane(database_url: str, atomicity: Atomicity) -> AsyncIterator[Plane]:
    """A server, called under keys."""
    async with running(database_url, on_statement=atomicity, token_escrow_key=bytes(32)) as up:
        through = keyed(up)
        yield through
        await through.channel.close()


async def test_every_effect_commits_with_its_answer(plane: Plane, atomicity: Atomicity) -> None:
    tenant = await plane.tenant()
    for name in _changing():
        if name not in IN_STEPS:
            mine = await estate(plane, tenant)
            await _call(plane, tenant, name, **mine.request(name))
    for step in (_alerts, _switches, _engines, _client, _node):
        await step(plane, tenant)

    assert atomicity.violations().keys() <= INDEPENDENT
    paths = {rpcs.ALL[name].path for name in _changing()}
    assert paths - atomicity.completed() == set()


async def _call(plane: Plane, tenant: Tenant, name: str, **fields: Any) -> None:
    rpc = rpcs.ALL[name]
    request = fields | FIELDS.get(name, {})
    if "tenant_id" in {field.name for field in rpc.method.input_type.fields}:
        request.setdefault("tenant_id", tenant.id)
    metadata = tenant.metadata if policy.METHODS[rpc.path].roles else ADMIN
    found = await rpc.ask(plane.channel, metadata, **request)
    assert found is None, (name, found)


async def _alerts(plane: Plane, tenant: Tenant) -> None:
    [alert] = await rows(plane, "SELECT id FROM pricing_alerts")
    alert_id = str(alert["id"])
    await _call(plane, tenant, "NotificationService/DeletePricingAlert", alert_id=alert_id)
    notification_id = uuid4()
    await rows(plane, INSERT_NOTIFICATION, tenant.id, notification_id)
    fields = {"notification_id": str(notification_id)}
    await _call(plane, tenant, "NotificationService/MarkRead", **fields)


async def _switches(plane: Plane, tenant: Tenant) -> None:
    mine = await estate(plane, tenant)
    agent = {"agent_id": mine.owned["agent_id"]}
    instance = {"instance_id": mine.owned["hello"]["instance_id"]}
    await _call(plane, tenant, "AgentService/UpdateAgentConfig", **agent, min_pool_duration_hours=0)
    await _call(plane, tenant, "DecisionService/IssueSwitch", **agent, target_mode="ondemand")
    mine = await estate(plane, tenant)
    instance = {"instance_id": mine.owned["hello"]["instance_id"]}
    await _call(plane, tenant, "FleetService/ForceSwitch", **instance, target="ondemand")
    agents = [mine.owned["agent_id"]]
    bulk = {"operation": "disable_agents", "agent_ids": agents, "confirm": True}
    await _call(plane, tenant, "FleetService/BulkExecute", **bulk)


async def _engines(plane: Plane, _tenant: Tenant) -> None:
    engines = Engines(plane)
    await engines.upload_engine(("calm.json", CALM))
    session_id = await engines.upload_model(("calm.json", CALM))
    await engines.activate(session_id, force=True)
    await engines.fall_back()


async def _client(plane: Plane, tenant: Tenant) -> None:
    [client] = await rows(plane, "SELECT id FROM tenants WHERE name = 'Acme'")
    fields = {"tenant_id": str(client["id"])}
    await _call(plane, tenant, "TenantService/RevealClientToken", **fields)


async def _node(plane: Plane, _tenant: Tenant) -> None:
    nodes = Nodes(plane)
    await nodes.furnish()
    await nodes.launch()
    [operation] = await nodes.lease()
    await nodes.report(operation)
