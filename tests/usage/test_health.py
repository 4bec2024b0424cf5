"""Readiness says whether sums are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from spotplane_server.kernel.db import Database
from spotplane_server.usage.health import rollups_work
from spotplane_server.usage.ingest import ingest
from spotplane_server.usage.windows import DAY

from tests.usage.world import World, hours, record

NOW = datetime.now(UTC)
FIRST, LAST = UUID(int=0), UUID(int=2**128 - 1)


async def test_sums_are_well_without_use_and_with_it(db: Database, world: World) -> None:
    """Whichever tenant is looked at, from either end."""
    assert await rollups_work(db, FIRST, NOW)
    for _ in range(3):
        owner = await world.tenant()
        records = [record(None, NOW - hours(n / 7), model="mistral-7b") for n in range(40)]
        await ingest(db, owner.id, None, records, NOW)

    assert [await rollups_work(db, sample, NOW) for sample in (FIRST, owner.id, LAST)] == [True] * 3


@pytest.mark.parametrize(
    "ruin",
    [
        "DELETE FROM usage_rollup_minute",
        "UPDATE usage_rollup_minute SET requests = requests + 1",
        "DELETE FROM usage_rollup_hourly",
        "UPDATE usage_rollup_hourly SET requests = requests - 1",
        "DELETE FROM usage_rollup_daily",
    ],
)
async def test_newest_records_that_are_in_no_sum_are_noticed(
    db: Database, world: World, ruin: str
) -> None:
    """In the minute, the hour or the day; a day later nobody asks."""
    owner = await world.tenant()
    await ingest(db, owner.id, None, [record(None, NOW), record(None, NOW)], NOW)
    assert await rollups_work(db, FIRST, NOW)

    await world.conn.execute(ruin)

    assert not await rollups_work(db, FIRST, NOW)
    assert await rollups_work(db, FIRST, NOW + DAY + hours(1))


@pytest.mark.parametrize(
    "table", ["usage_rollup_minute", "usage_rollup_hourly", "usage_rollup_daily"]
)
async def test_sums_need_a_place(db: Database, world: World, table: str) -> None:
    """Without this month's partition nothing can be summed."""
    await world.conn.execute(f"DROP TABLE {table}_{NOW:%Y%m}")

    assert not await rollups_work(db, FIRST, NOW)
