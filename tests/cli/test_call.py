"""`spotplane call`: RPCs by reflection."""

from __future__ import annotations

import json

from tests.cli.conftest import Operator
from tests.support.plane import Plane


async def test_services_and_methods_are_listed(operator: Operator) -> None:
    """A stranger finds the way without any file of ours."""
    services = (await operator.run("call")).out.split()
    methods = (await operator.run("call", "TenantService")).out

    assert {"spotplane.v1.TenantService", "grpc.health.v1.Health"} <= set(services)
    assert "spotplane.v1.TenantService.GetTenant(GetTenantRequest) returns (Tenant)" in methods


async def test_answer_is_json(operator: Operator, plane: Plane) -> None:
    """Request and answer are JSON in the API's own names."""
    tenant = await plane.tenant()

    done = await operator.run("call", "TenantService/GetTenant", json.dumps({"id": tenant.id}))

    assert json.loads(done.out)["id"] == tenant.id


async def test_call_with_a_key_is_the_tenants(operator: Operator, plane: Plane) -> None:
    """The tenant comes from the key, as everywhere."""
    tenant = await plane.tenant()

    done = await operator.run(
        "call", "UsageService.GetUsageByHour", '{"hours": 2}', "--key", tenant.key
    )

    assert len(json.loads(done.out)["data"]) == 2


async def test_health_needs_no_credential(operator: Operator) -> None:
    """Health is public."""
    done = await operator.run("call", "grpc.health.v1.Health.Check", SPOTPLANE_ADMIN_TOKEN="")

    assert json.loads(done.out)["status"] in {"SERVING", "NOT_SERVING"}


async def test_what_cannot_be_called_is_one_line(operator: Operator) -> None:
    """Unknown names, bad JSON, streams of requests and refusals each say so."""
    unknown = await operator.run("call", "TenantService.Nope")
    service = await operator.run("call", "NopeService.Get")
    bad = await operator.run("call", "TenantService.GetTenant", "{")
    stream = await operator.run("call", "AgentService.Connect")
    refused = await operator.run("call", "TenantService.ListTenants", SPOTPLANE_ADMIN_TOKEN="x")

    assert [d.status for d in (unknown, service, bad, stream, refused)] == [2, 2, 2, 2, 1]
    assert all(len(d.err.splitlines()) == 1 for d in (unknown, service, bad, stream, refused))
    assert "ADMIN_TOKEN_INVALID" in refused.err
