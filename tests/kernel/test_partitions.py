"""Months ahead, as many as the settings say."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.db.partitions import PartitionJob

MONTHS = """
    SELECT c.relname
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'usage_records'::regclass
       AND c.relname >= 'usage_records_209810'
     ORDER BY c.relname
"""


PARTITIONED = """
    SELECT c.relname AS name
      FROM pg_partitioned_table p
      JOIN pg_class c ON c.oid = p.partrelid
     WHERE NOT c.relispartition
     ORDER BY 1
"""
HAS_MONTH = "SELECT to_regclass($1 || '_209901') IS NOT NULL"


async def test_every_partitioned_table_gets_its_next_month(db: Database) -> None:
    await PartitionJob(db, 1).run_once(datetime(2098, 12, 31, 23, tzinfo=UTC))
    async with db.connection(ALL_TENANTS) as conn:
        tables = [row["name"] for row in await conn.fetch(PARTITIONED)]
        missing = [name for name in tables if not await conn.fetchval(HAS_MONTH, name)]

    assert "usage_rollup_peaks" in tables
    assert missing == []


@pytest.mark.parametrize("ahead", [1, 5])
async def test_as_many_months_are_ready_as_the_operator_wants(db: Database, ahead: int) -> None:
    """Over the turn of a year, with two months of the past; a second run makes nothing."""
    job, now = PartitionJob(db, ahead), datetime(2098, 12, 31, 23, tzinfo=UTC)
    assert await job.run_once(now)
    assert await job.run_once(now) == 0
    async with db.connection(ALL_TENANTS) as conn:
        found = [row["relname"].removeprefix("usage_records_") for row in await conn.fetch(MONTHS)]

    later = [f"2099{number:02}" for number in range(1, ahead + 1)]
    assert found == ["209810", "209811", "209812", *later]
