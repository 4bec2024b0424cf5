"""A crash between any two statements tells of nothing twice, and stops whom it must."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
from spotplane.v1 import usage_pb2
from spotplane_server.kernel.db.database import Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.spending.jobs import BudgetsJob
from spotplane_server.usage.ingest import ingest

from tests.spending.world import MODEL, World
from tests.support.clock import FakeClock
from tests.support.crashes import crash_everywhere, crashing
from tests.support.plane import running

TOLD = """
    SELECT event_type, data::text AS data
      FROM outbox_events
     WHERE aggregate_id = $1 AND event_type LIKE 'budget.%'
     ORDER BY txid, seq
"""
ALL = [
    ("budget.threshold_reached", 50),
    ("budget.threshold_reached", 80),
    ("budget.exceeded", 100),
    ("budget.stopped", None),
]


async def test_crash_anywhere_tells_once_and_stops(database_url: str, clock: FakeClock) -> None:
    """All of it or nothing, however often the server dies; the next run finds what is left."""
    async with running(database_url, clock) as plane:
        world = World(plane, plane, clock)
        await world.furnish()
        tenant = await plane.tenant()
        budget = await world.create(tenant, hard_stop=True)
    now = clock.now()
    async with crashing(database_url, None) as (db, _):
        used = usage_pb2.UsageRecord(
            request_id=uuid4().hex, model=MODEL, prompt_tokens=1000, completion_tokens=0
        )
        await ingest(db, TenantId(UUID(tenant.id)), None, [used], now)
    conn = await asyncpg.connect(database_url)

    async def told() -> list[tuple[str, Any]]:
        rows = await conn.fetch(TOLD, budget.id)
        return [(row["event_type"], orjson.loads(row["data"]).get("threshold_pct")) for row in rows]

    async def whole() -> None:
        stops = await conn.fetchval("SELECT count(*) FROM spend_stops")
        assert (await told(), stops) in (([], 0), (ALL, 1))

    async def work(db: Database) -> None:
        await BudgetsJob(db).run_once(now)

    try:
        assert await crash_everywhere(database_url, work, whole) >= len(ALL)
        assert await told() == ALL
    finally:
        await conn.close()
