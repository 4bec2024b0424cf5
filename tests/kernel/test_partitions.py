"""Months ahead, as many as the settings say."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from spotplane_server.kernel.db import EVERY_TENANT, Database
from spotplane_server.kernel.partitions import PartitionJob

MONTHS = """
    SELECT c.relname
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'usage_records'::regclass
       AND c.relname >= 'usage_records_209810'
     ORDER BY c.relname
"""


@pytest.mark.parametrize("ahead", [1, 5])
async def test_as_many_months_are_ready_as_the_operator_wants(db: Database, ahead: int) -> None:
    """Over the turn of a year, with two months of the past; a second run makes nothing."""
    job, now = PartitionJob(db, ahead), datetime(2098, 12, 31, 23, tzinfo=UTC)
    assert await job.run_once(now)
    assert await job.run_once(now) == 0
    async with db.read(EVERY_TENANT) as conn:
        found = [row["relname"].removeprefix("usage_records_") for row in await conn.fetch(MONTHS)]

    later = [f"2099{number:02}" for number in range(1, ahead + 1)]
    assert found == ["209810", "209811", "209812", *later]
