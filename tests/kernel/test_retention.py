"""Forgetting: once a day, in batches, whole months, and never what must stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.jobs import daily, retention
from spotplane_server.kernel.jobs.retention import RetentionJob, Rule

NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
RULE = Rule("pool_scores", "computed_at", timedelta(days=90))
INSERT = """
    INSERT INTO pool_scores (pool_id, computed_at, score, class, risk, interruptions_30d)
    SELECT 'p' || n, $1, 50, 'caution', 0, 0
      FROM generate_series(1, $2::int) AS n
"""
INSERT_AUDIT = """
    INSERT INTO audit_logs (occurred_at, id, actor_type, actor_id, actor_name, action,
                            resource_type, resource_id, correlation_id)
    VALUES ($1, gen_random_uuid(), $2, 'a', 'a', $3, 'tenant', 't', 'c')
"""
PARTITIONS = """
    SELECT c.relname
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = $1::text::regclass
"""


async def scores(db: Database) -> int:
    """How many scores there are."""
    async with db.connection(ALL_TENANTS) as conn:
        count: int = await conn.fetchval("SELECT count(*) FROM pool_scores")
    return count


async def test_old_rows_go_in_batches_and_new_ones_stay(db: Database) -> None:
    """All of them, however many batches that takes."""
    async with db.transaction(ALL_TENANTS) as conn:
        await conn.execute(INSERT, NOW - RULE.keep - timedelta(seconds=1), 2 * retention.BATCH + 1)
        await conn.execute(INSERT, NOW - RULE.keep, 3)

    assert await RetentionJob(db, [RULE]).forget(NOW) == 2 * retention.BATCH + 1

    assert await scores(db) == 3


@pytest.mark.parametrize(
    ("at", "ran", "is_due"),
    [
        (NOW - timedelta(minutes=1), None, False),
        (NOW, None, True),
        (NOW, NOW - timedelta(days=1), True),
        (NOW, NOW, False),
        (NOW + timedelta(hours=21), None, True),  # a plane that was down catches up
        (NOW + timedelta(hours=23), NOW, False),
    ],
)
async def test_it_is_due_once_a_day_from_two_on(
    db: Database, at: datetime, ran: datetime | None, is_due: bool
) -> None:
    """UTC."""
    async with db.transaction(ALL_TENANTS) as conn:
        if ran is not None:
            await daily.mark_done(conn, "retention", ran.date())

        assert (await daily.due(conn, "retention", retention.AT, at) is not None) is is_due


async def test_a_day_that_was_done_is_not_done_again(db: Database) -> None:
    """The next one is; each is told of once."""
    told: list[int] = []

    async def tell(_conn: Conn, done: int, _now: datetime) -> None:
        told.append(done)

    job = RetentionJob(db, [RULE], tell)
    async with db.transaction(ALL_TENANTS) as conn:
        await conn.execute(INSERT, NOW - timedelta(days=100), 1)
    assert await job.run_once(NOW) == 1
    async with db.transaction(ALL_TENANTS) as conn:
        await conn.execute(INSERT, NOW - timedelta(days=100), 1)

    assert [await job.run_once(NOW), await job.run_once(NOW + timedelta(days=1))] == [0, 1]
    assert told == [1, 1]


async def test_months_that_ended_long_ago_are_dropped(db: Database) -> None:
    """Those of tables that are kept for some time only."""
    old = datetime(2020, 1, 1, tzinfo=UTC)
    async with db.transaction(ALL_TENANTS) as conn:
        before = await conn.fetch(PARTITIONS, "raw_prices")
        await conn.fetchval(
            "SELECT ensure_partition($1, $2, $3)", "raw_prices", old, old + timedelta(days=31)
        )

    assert await RetentionJob(db, []).forget(datetime.now(UTC)) == 1

    async with db.connection(ALL_TENANTS) as conn:
        kept = {row["relname"] for row in await conn.fetch(PARTITIONS, "raw_prices")}
    assert kept == {row["relname"] for row in before}


async def test_audit_rows_go_after_a_year_and_what_administrators_did_after_seven(
    db: Database,
) -> None:
    """By dropping, since nobody may delete one; the second run of a day finds nothing to do."""
    now = datetime.now(UTC)
    ages = {"young": 300, "old": 500, "ancient": 2700}
    async with db.transaction(ALL_TENANTS) as conn:
        for age, days in ages.items():
            at = now - timedelta(days=days)
            start = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            end = (start + timedelta(days=32)).replace(day=1)
            await conn.fetchval("SELECT ensure_partition($1, $2, $3)", "audit_logs", start, end)
            for actor_type in ("admin", "api_key", "agent", "system", "user"):
                await conn.execute(INSERT_AUDIT, at, actor_type, age)

    assert [await RetentionJob(db, []).forget(now) for _ in range(2)] == [2, 0]

    async with db.connection(ALL_TENANTS) as conn:
        left = await conn.fetch("SELECT action, actor_type FROM audit_logs ORDER BY 1, 2")
    assert [tuple(row) for row in left] == [
        ("old", "admin"),
        *(("young", actor) for actor in ("admin", "agent", "api_key", "system", "user")),
    ]


@pytest.mark.parametrize("table", ["usage_dedup", "tenants", "pg_class"])
async def test_no_mistake_drops_what_is_kept_for_ever(db: Database, table: str) -> None:
    """Nor a table that is not ours to drop."""
    async with db.connection(ALL_TENANTS) as conn:
        with pytest.raises(asyncpg.RaiseError, match="not a table"):
            await conn.fetchval(retention.DROP_PARTITION, table, datetime(2020, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("days", [-40, 0, 40])
async def test_no_month_in_use_is_dropped(db: Database, days: int) -> None:
    """The current one, those to come, and those that must still be kept."""
    at = (datetime.now(UTC) + timedelta(days=days)).replace(day=1)
    async with db.connection(ALL_TENANTS) as conn:
        with pytest.raises(asyncpg.RaiseError, match="must be kept"):
            await conn.fetchval(retention.DROP_PARTITION, "raw_prices", at)


async def test_forgetting_may_not_exceed_the_plain_roles_rights(db: Database) -> None:
    """The function deletes as its caller."""
    async with db.connection(ALL_TENANTS) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetchval(
                retention.DELETE_BEFORE, "pools", "created_at", datetime.now(UTC), 1
            )
