"""Readiness says whether sums are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from spotplane_server.kernel.db.database import Database
from spotplane_server.usage.health import rollups_work
from spotplane_server.usage.ingest import ingest
from spotplane_server.usage.time_windows import DAY

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
        "DELETE FROM usage_rollups WHERE rollup = 'minute_model'",
        "UPDATE usage_rollups SET requests = requests + 1 WHERE rollup = 'minute_model'",
        "DELETE FROM usage_rollups WHERE rollup = 'hour_all'",
        "UPDATE usage_rollups SET requests = requests - 1 WHERE rollup = 'hour_all'",
        "DELETE FROM usage_rollups WHERE rollup = 'day_model'",
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


@pytest.mark.parametrize("unit", ["minute", "hour", "day"])
async def test_sums_need_a_place(db: Database, world: World, unit: str) -> None:
    """Without this month's partition nothing can be summed."""
    await world.conn.execute(f"DROP TABLE usage_rollups_{NOW:%Y%m}_{unit}")

    assert not await rollups_work(db, FIRST, NOW)
