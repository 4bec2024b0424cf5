"""One tenant sees and writes nothing of another, in the database itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from spotplane_server.kernel.db.database import Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage.ingest import ingest

from tests.usage.world import World, record

NOW = datetime.now(UTC)


@pytest.mark.parametrize("table", ["usage_records", "usage_dedup", "usage_rollups"])
async def test_forgotten_where_shows_nothing_of_others(
    db: Database, world: World, table: str
) -> None:
    """Row-level security holds for the plain role, on every table of usage."""
    one, two = await world.tenant(), await world.tenant()
    for owner in (one, two, two):
        await ingest(db, owner.id, None, [record(None, NOW - timedelta(hours=1))], NOW)
    query = f"SELECT DISTINCT tenant_id FROM {table}"  # noqa: S608 - a name of this test's own
    for owner in (one, two):
        async with db.connection(owner.id) as conn:
            assert [row["tenant_id"] for row in await conn.fetch(query)] == [owner.id]
    async with db.connection(TenantId(uuid4())) as conn:
        assert await conn.fetch(query) == []


async def test_other_tenants_rows_cannot_be_written(db: Database, world: World) -> None:
    """The policy checks what is written, too."""
    one, two = await world.tenant(), await world.tenant()
    async with db.connection(one.id) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("INSERT INTO usage_dedup VALUES ($1, 'r', '\\x00', now())", two.id)
