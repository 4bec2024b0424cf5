"""Lists that pages poll every few seconds: one statement each, by an index."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
from spotplane_server.fleet import log_queries, queries
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.request_context import TenantId

from tests.fleet.world import POOLS, World

MANY: Final = """
    INSERT INTO instances (tenant_id, id, agent_id, status, instance_type, region, az, mode,
                           pool_id, launched_at, updated_at)
    SELECT $1, 'i-' || n, $2, 'terminated', 't3.medium', 'us-east-1', 'us-east-1a', 'spot', $3,
           now() - make_interval(secs => n), now()
      FROM generate_series(1, $4) n
"""


MANY_EVENTS: Final = """
    INSERT INTO outbox_events (occurred_at, id, event_type, tenant_id, aggregate_id, data)
    SELECT now(), gen_random_uuid(), 'replica.ready', $1, 'a',
           jsonb_build_object('instance_id', 'i-' || n)
      FROM generate_series(1, 5000) n
"""


async def plan(world: World, statement: str, *arguments: Any) -> str:
    """How the plain role runs a statement, once the database knows its tables."""
    owner = await asyncpg.connect(world.plane.database_url)
    try:
        await owner.execute("ANALYZE")
    finally:
        await owner.close()
    async with world.plane.db.connection(TenantId(UUID(world.tenant.id))) as conn:
        rows = await conn.fetch("EXPLAIN " + statement, *arguments)
    return "\n".join(row[0] for row in rows)


async def test_list_of_a_tenant_reads_no_other_tenants_rows(world: World) -> None:
    """However many there are."""
    other = World(world.plane, await world.plane.tenant(), world.clock)
    async with world.plane.db.connection(ALL_TENANTS) as conn:
        for owner, many in ((world, 200), (other, 6000)):
            agent_id = await owner.start("i-old")
            await conn.execute(MANY, UUID(owner.tenant.id), UUID(agent_id), POOLS[0], many)

    tenant_id = UUID(world.tenant.id)
    told = await plan(
        world, queries.LIST_OF_TENANT, tenant_id, None, None, None, None, None, None, None, 51
    )

    assert "Seq Scan on instances" not in told
    assert "instances_" in told


async def test_log_of_an_instance_goes_by_its_index(world: World) -> None:
    """Of the events, only those that name it are read."""
    await world.start("i-old")
    tenant_id = UUID(world.tenant.id)
    async with world.plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute(MANY_EVENTS, tenant_id)

    told = await plan(
        world,
        log_queries.LIST_EVENTS,
        tenant_id,
        "i-old",
        world.clock.now() - timedelta(days=1),
        ["replica.ready"],
        100,
    )

    assert "instance_id_occurred_at_idx" in told
