"""What one process changes holds in the others at once, and nothing secret is logged by any."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import grpc.aio
import pytest
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    api_key_pb2,
    api_key_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
)
from spotplane_server.kernel.auth import secrets

from tests.invariants.processes import server_process
from tests.support.plane import ADMIN, ADMIN_TOKEN, Metadata, Plane, bearer, refusal

ROUNDS = 20


async def told(channel: grpc.aio.Channel, metadata: Metadata) -> str:
    """What a key is told by a process: OK, or the reason."""
    stub = api_key_pb2_grpc.ApiKeyServiceStub(channel)
    try:
        await stub.ListOwnApiKeys(api_key_pb2.ListOwnApiKeysRequest(), metadata=metadata)
    except grpc.aio.AioRpcError as err:
        return refusal(err).reason
    return "OK"


async def test_a_suspended_key_is_refused_at_once_by_another_process(plane: Plane) -> None:
    """Round after round, with the key in the other's memory each time."""
    async with server_process(plane.database_url, ADMIN_RATE_LIMIT_RPM="1000000") as other:
        tenant = await plane.tenant()
        here = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
        there = api_key_pb2_grpc.ApiKeyServiceStub(other.channel)
        for _ in range(ROUNDS):
            assert await told(other.channel, tenant.metadata) == "OK"
            await here.SuspendApiKey(
                api_key_pb2.SuspendApiKeyRequest(key_id=tenant.key_id), metadata=ADMIN
            )
            assert await told(other.channel, tenant.metadata) == "KEY_SUSPENDED"
            assert await told(plane.channel, tenant.metadata) == "KEY_SUSPENDED"
            await there.ActivateApiKey(
                api_key_pb2.ActivateApiKeyRequest(key_id=tenant.key_id), metadata=ADMIN
            )
            assert await told(plane.channel, tenant.metadata) == "OK"


async def _use_secrets(channel: grpc.aio.Channel) -> list[str]:
    """Create, use and misuse credentials of every kind; what must not be logged."""
    tenants = tenant_pb2_grpc.TenantServiceStub(channel)
    keys = api_key_pb2_grpc.ApiKeyServiceStub(channel)
    tenant = await tenants.CreateTenant(
        tenant_pb2.CreateTenantRequest(name="A", email="a@example.com"), metadata=ADMIN
    )
    key = await keys.CreateApiKey(
        api_key_pb2.CreateApiKeyRequest(tenant_id=tenant.id, role="admin"), metadata=ADMIN
    )
    rotated = await keys.RotateApiKey(
        api_key_pb2.RotateApiKeyRequest(key_id=key.id), metadata=ADMIN
    )
    agent = await agent_pb2_grpc.AgentServiceStub(channel).Register(
        agent_pb2.RegisterRequest(
            logical_agent_id="chat",
            instance_id="i-1",
            instance_type="g5.xlarge",
            region="us-east-1",
            az="us-east-1a",
            issue_agent_token=True,
        ),
        metadata=bearer(rotated.key),
    )
    unknown = secrets.issue("live").secret
    damaged = unknown[:-1] + "-"
    used = [key.key, rotated.key, agent.agent_token, unknown, damaged]
    for secret in used:
        await told(channel, bearer(secret))
        # Where it does not belong: as a request id, as an id, and as a user agent.
        odd = (("x-request-id", secret), ("x-user-agent", secret))
        await told(channel, bearer(secret) + odd)
        with pytest.raises(grpc.aio.AioRpcError):
            await tenants.GetTenant(tenant_pb2.GetTenantRequest(id=secret), metadata=ADMIN)
    return [*used, ADMIN_TOKEN]


@pytest.mark.parametrize("as_json", ["true", "false"])
async def test_no_secret_is_in_any_log_line(database_url: str, as_json: str) -> None:
    """Whatever level, whatever form, and wherever callers put their secrets."""
    settings = {"LOG_LEVEL": "DEBUG", "LOG_JSON": as_json}
    async with server_process(database_url, **settings) as server:
        used = await _use_secrets(server.channel)
    logged = json.dumps(server.lines)

    assert len(server.lines) > 20
    assert not [secret for secret in used if secret in logged]
    assert not [secret for secret in used if secret.startswith("sp_") and secret[12:40] in logged]


async def test_every_call_is_one_json_line_with_its_id(database_url: str) -> None:
    """Method, code, time, caller."""
    async with server_process(database_url) as server:
        await told(server.channel, (("x-request-id", "look-for-me"),))
    lines: list[dict[str, Any]] = [line for line in server.lines if line.get("event") == "rpc"]

    [line] = [line for line in lines if line["correlation_id"] == "look-for-me"]
    assert line["method"] == "/spotplane.v1.ApiKeyService/ListOwnApiKeys"
    assert line["code"] == "UNAUTHENTICATED"
    assert line["duration_ms"] >= 0
    assert {"actor", "tenant_id", "client_ip", "timestamp", "level"} <= set(line)
    assert not [line for line in server.lines if "text" in line], "not JSON"


async def test_the_cause_of_an_internal_error_is_in_the_log_under_its_id(
    database_url: str,
) -> None:
    """The caller has the id, the operator the traceback."""
    async with server_process(database_url) as server:
        owner = await asyncpg.connect(database_url)
        await owner.execute("ALTER TABLE models RENAME TO models_gone")
        await owner.close()
        stub = model_pb2_grpc.ModelServiceStub(server.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListModels(model_pb2.ListModelsRequest(), metadata=ADMIN)
    said = refusal(caught.value)
    assert said.reason == "INTERNAL"

    [line] = [line for line in server.lines if line.get("event") == "unforeseen_error"]
    assert line["correlation_id"] == said.metadata["correlation_id"]
    assert "UndefinedTableError" in line["exception"]
