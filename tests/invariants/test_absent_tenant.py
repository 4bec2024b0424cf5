"""An administrator that names a tenant which does not exist, or is deleted, changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from spotplane.v1 import tenant_pb2, tenant_pb2_grpc
from spotplane_server.kernel.auth import policy

from tests.invariants import rpcs
from tests.invariants.test_extreme_values import DEFECTS, ENDLESS
from tests.invariants.test_foreign_tenant import ALSO, Estate, estate
from tests.support.plane import ADMIN, Plane, Refusal

TENANT_TABLES: Final = """
    SELECT c.relname
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
       AND NOT c.relispartition
       AND c.relname NOT IN ('audit_logs', 'outbox_events', 'idempotency_keys')
     ORDER BY 1
"""
NAMING: Final = [
    name
    for name, rpc in rpcs.ALL.items()
    if "tenant_id" in rpc.method.input_type.fields_by_name and policy.METHODS[rpc.path].scope
]
# Further members, without which a call is refused for what it lacks.
MORE: Final[dict[str, dict[str, Any]]] = {
    "AgentService/Register": {"logical_agent_id": "absent", "instance_id": "i-absent"},
    "AgentService/UpdateFleetSettings": {"max_agents": 1},
    "NodeService/LaunchInstance": {"model_name": "m", "provider": "aws", "region": "us-east-1"},
    "NodeService/LaunchNode": {"model": "m", "provider": "aws", "region": "us-east-1"},
    "NodeService/RegisterNode": {"provider": "aws", "endpoint_url": "http://10.0.0.1:8000"},
    "NotificationService/CreatePricingAlert": {"threshold_nanousd": 1},
    "BudgetService/CreateBudget": {"name": "b", "limit_nanos": 10**9},
}


@asynccontextmanager
async def owner_of(plane: Plane) -> AsyncIterator[Any]:
    conn = await asyncpg.connect(plane.database_url)
    try:
        yield conn
    finally:
        await conn.close()


class Rows:
    """Counts the rows that each table has of a tenant."""

    def __init__(self, conn: Any, tables: list[str], tenant_id: str) -> None:
        self._conn, self._tenant_id = conn, tenant_id
        # Names from the catalog, not from a caller.
        self._statement = " UNION ALL ".join(
            f"SELECT '{t}' AS name, count(*) AS n FROM \"{t}\" WHERE tenant_id = $1"  # noqa: S608
            for t in tables
        )

    async def count(self) -> dict[str, int]:
        found = await self._conn.fetch(self._statement, self._tenant_id)
        return {row["name"]: row["n"] for row in found}


async def call(plane: Plane, name: str, owned: Estate, tenant_id: str) -> Refusal | None:
    rpc = rpcs.ALL[name]
    fields = rpcs.ARGUMENTS.get(name, {}) | owned.request(name) | ALSO.get(name, {})
    fields |= MORE.get(name, {}) | {"tenant_id": tenant_id}
    known = rpc.method.input_type.fields_by_name
    request = rpc.request(**{k: v for k, v in fields.items() if k in known})
    if name in ENDLESS:
        return await rpcs.begin(rpc, plane.channel, ADMIN, request)
    return await rpc.send(plane.channel, ADMIN, request)


@pytest.mark.parametrize("kind", ["unknown", "deleted"])
async def test_naming_an_absent_tenant_is_no_defect_and_changes_nothing(
    plane: Plane, kind: str
) -> None:
    tenant = await plane.tenant()
    owned = await estate(plane, tenant)
    tenant_id = str(uuid4())
    if kind == "deleted":
        tenant_id = tenant.id
        await plane.stub(tenant_pb2_grpc.TenantServiceStub).DeleteTenant(
            tenant_pb2.DeleteTenantRequest(id=tenant_id), metadata=ADMIN
        )
    found: dict[str, object] = {}
    async with owner_of(plane) as conn:
        rows = Rows(conn, [row[0] for row in await conn.fetch(TENANT_TABLES)], tenant_id)
        before = await rows.count()
        for name in NAMING:
            refusal = await call(plane, name, owned, tenant_id)
            after = await rows.count()
            if refusal is not None and refusal.code in DEFECTS:
                found[name] = refusal
            elif grown := {table: n for table, n in after.items() if n > before[table]}:
                found[name] = grown
            before = after
    assert found == {}
