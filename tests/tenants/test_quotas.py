"""Quotas per tenant: the error names quota and limit, and concurrent calls do not pass them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import grpc.aio
import pytest
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    caller_pb2,
    caller_pb2_grpc,
    notification_pb2,
    notification_pb2_grpc,
)
from spotplane_server.kernel.auth.tickets import MAX_TICKETS
from spotplane_server.notifications.alerts_store import MAX_ALERTS
from spotplane_server.tenants.rules import MAX_LIVE_KEYS

from tests.support.plane import ADMIN, Plane, Tenant, refusal, refused
from tests.tenants.api import admin, outcome, rows

CALLS: Final = 6
ROOM: Final = 2

# Rows that a tenant has already: $2 of them.
FILL_KEYS: Final = """
    INSERT INTO api_keys (tenant_id, id, environment_id, key_hash, key_prefix, name, role,
                          rate_limit_rpm, concurrency_limit, status, created_at, updated_at)
    SELECT tenant_id, gen_random_uuid(), environment_id, sha256(n::text::bytea), 'sp_live_fill', '',
           'developer', 1, 1, 'active', created_at, updated_at
      FROM api_keys, generate_series(1, $2) AS n
     WHERE tenant_id = $1
"""
FILL_ALERTS: Final = """
    INSERT INTO pricing_alerts (tenant_id, id, alert_type, threshold_nanousd, channels, enabled,
                                created_at)
    SELECT $1, gen_random_uuid(), 'threshold_above', 1, '{dashboard}', true, now()
      FROM generate_series(1, $2)
"""
FILL_TICKETS: Final = """
    INSERT INTO tickets (tenant_id, id, kind, credential_hash, path, expires_at)
    SELECT $1, gen_random_uuid(), 'tenant', '', '/', 'infinity' FROM generate_series(1, $2)
"""


def _create_key(plane: Plane, tenant: Tenant, _number: int) -> Any:
    return admin(plane)("CreateApiKey", tenant_id=tenant.id)


def _create_alert(plane: Plane, tenant: Tenant, _number: int) -> Any:
    return plane.stub(notification_pb2_grpc.NotificationServiceStub).CreatePricingAlert(
        notification_pb2.CreatePricingAlertRequest(threshold_nanousd=1),
        metadata=tenant.metadata,
    )


def _create_ticket(plane: Plane, tenant: Tenant, _number: int) -> Any:
    return plane.stub(caller_pb2_grpc.CallerServiceStub).MintTicket(
        caller_pb2.MintTicketRequest(path="/api/events/stream"), metadata=tenant.metadata
    )


def _register_agent(plane: Plane, tenant: Tenant, number: int) -> Any:
    return plane.stub(agent_pb2_grpc.AgentServiceStub).Register(
        agent_pb2.RegisterRequest(
            logical_agent_id=f"agent-{number}",
            instance_id=f"i-{number}",
            instance_type="g5.xlarge",
            region="us-east-1",
            az="us-east-1a",
        ),
        metadata=tenant.metadata,
    )


@pytest.mark.parametrize(
    ("create", "fill", "count", "reason", "quota"),
    [
        (_create_key, FILL_KEYS, MAX_LIVE_KEYS - 1, "QUOTA_EXCEEDED", "api_keys"),
        (_create_alert, FILL_ALERTS, MAX_ALERTS, "ALERT_LIMIT", "price_alerts"),
        (_create_ticket, FILL_TICKETS, MAX_TICKETS, "QUOTA_EXCEEDED", "tickets"),
        (_register_agent, None, 0, "QUOTA_EXCEEDED", "agents"),
    ],
    ids=["keys", "alerts", "tickets", "agents"],
)
async def test_concurrent_calls_do_not_pass_a_quota(
    plane: Plane,
    create: Callable[[Plane, Tenant, int], Any],
    fill: str | None,
    count: int,
    reason: str,
    quota: str,
) -> None:
    tenant = await plane.tenant()
    if fill is None:
        await _limit_agents(plane, tenant, ROOM)
    else:
        await rows(plane, fill, tenant.id, count - ROOM)

    outcomes = Counter(
        await asyncio.gather(*(outcome(create(plane, tenant, n)) for n in range(CALLS)))
    )

    assert outcomes == {"OK": ROOM, reason: CALLS - ROOM}
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await create(plane, tenant, CALLS)
    found = refusal(failed.value)
    assert (found.reason, found.metadata["quota"]) == (reason, quota)
    assert found.metadata["limit"] in found.message.replace(",", "")
    assert int(found.metadata["used"]) >= int(found.metadata["limit"])


async def test_a_full_tenant_may_rotate_a_key_that_ends_at_once(plane: Plane) -> None:
    tenant = await plane.tenant()
    await rows(plane, FILL_KEYS, tenant.id, MAX_LIVE_KEYS - 1)
    api = admin(plane)
    async with refused("QUOTA_EXCEEDED"):
        await api("RotateApiKey", key_id=tenant.key_id)
    await api("RotateApiKey", key_id=tenant.key_id, grace_period_seconds=0)


async def _limit_agents(plane: Plane, tenant: Tenant, limit: int) -> None:
    await plane.stub(agent_pb2_grpc.AgentServiceStub).UpdateFleetSettings(
        agent_pb2.UpdateFleetSettingsRequest(tenant_id=tenant.id, max_agents=limit),
        metadata=ADMIN,
    )
