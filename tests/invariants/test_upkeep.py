"""The background jobs of the contract, and what is forgotten when."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from prometheus_client import REGISTRY
from spotplane_server.kernel.clock import SystemClock
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.jobs.retention import RetentionJob

from tests.support.clock import FakeClock
from tests.support.fleet import Calls
from tests.support.link import Hand, job, run_job
from tests.support.plane import Plane, running

# How long each may take to notice what it is for, by its name in the plane.
LONGEST: Final = {
    "agent-liveness": timedelta(seconds=15),
    "commands": timedelta(seconds=15),
    "replica-coordinator": timedelta(seconds=2),
    "failover": timedelta(seconds=5),
    "decision-loop": timedelta(seconds=60),
    "price-pipeline": timedelta(seconds=30),
    "gap-fill": timedelta(minutes=5),
    "pool-risk": timedelta(minutes=15),
    "price_alerts": timedelta(seconds=30),
    "savings": timedelta(minutes=5),
    "zombie-report": timedelta(minutes=15),
    "ml-features": timedelta(hours=6),
    "budgets": timedelta(seconds=15),
    "retention": timedelta(minutes=15),
}
DAY: Final = timedelta(days=1)
ROWS: Final = {
    ("price_reports", "received_at"): 30 * DAY,
    ("decisions", "decided_at"): 30 * DAY,
    ("pool_scores", "computed_at"): 90 * DAY,
    ("notifications", "read_at"): 30 * DAY,
    ("agent_commands", "done_at"): 7 * DAY,
    ("idempotency_keys", "created_at"): DAY,
}
MONTHS: Final = {
    "raw_prices": 90 * DAY,
    "clean_prices": 730 * DAY,
    "price_features": 730 * DAY,
    "outbox_events": 90 * DAY,
    "audit_logs": 365 * DAY,
}
# Parts of a month by what they hold, each with its retention period.
PARTS: Final = {
    ("audit_logs", "apart", 2557 * DAY),
    ("audit_logs", "rest", 365 * DAY),
    ("usage_rollups", "minute", 40 * DAY),
    ("usage_rollups", "hour", 800 * DAY),
    ("usage_rollups", "day", 3650 * DAY),
}
# For the life of the tenant.
FOR_EVER: Final = {"switches", "savings_days", "savings_months", "failovers"}
INSERT: Final = """
    INSERT INTO notifications (tenant_id, id, severity, message, created_at, read_at)
    VALUES ($1, $2, 'info', $3, $4, $5)
"""


async def test_every_job_of_the_contract_runs_often_enough_and_alone(plane: Plane) -> None:
    """Each under its lease, so that one server at a time runs it."""
    jobs = {job.name: job for job in plane.server.parts.jobs}

    assert set(LONGEST) <= set(jobs)
    assert {name for name, period in LONGEST.items() if jobs[name].period > period} == set()
    assert {name for name in LONGEST if not jobs[name].singleton} == set()


async def test_operations_page_names_every_job(database_url: str) -> None:
    """Also those that only run with some settings."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text("utf-8")
    async with running(database_url, smtp_url="smtp+plain://127.0.0.1:1") as plane:
        names = {job.name for job in plane.server.parts.jobs}

    assert {name for name in names if f"| `{name}` |" not in page} == set()


async def test_everything_is_kept_as_long_as_the_contract_says(plane: Plane) -> None:
    """Rows by the features' rules, whole months by what the database holds."""
    rules = {(rule.table, rule.column): rule.keep for rule in plane.server.parts.retention}
    async with plane.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch(
            "SELECT name, kept_for FROM partitioned_tables WHERE kept_for IS NOT NULL"
        )
        parts = await conn.fetch("SELECT parent, part, kept_for FROM partition_parts")
    months = {row["name"]: row["kept_for"] for row in rows}

    assert {key: rules.get(key) for key in ROWS} == ROWS
    assert {name: months.get(name) for name in MONTHS} == MONTHS
    assert {tuple(part) for part in parts} == PARTS
    assert FOR_EVER & ({table for table, _ in rules} | set(months)) == set()


async def test_plain_role_may_forget_all_that_is_to_be_forgotten(plane: Plane) -> None:
    """A right that is missing would stop every rule behind it, once a night."""
    parts = plane.server.parts

    assert await RetentionJob(plane.db, parts.retention).forget(SystemClock().now()) >= 0


async def test_notification_is_forgotten_a_month_after_it_was_read(plane: Plane) -> None:
    """One that nobody has read stays, however old it is."""
    tenant = await plane.tenant()
    now = plane.server.kernel.clock.now()
    old = now - 31 * DAY
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for message, read_at in (("read long ago", old), ("read", now), ("unread", None)):
            await conn.execute(INSERT, tenant.id, uuid4(), message, old, read_at)

    retention = job(plane, "retention")
    assert isinstance(retention, RetentionJob)
    await retention.forget(now)

    async with plane.db.connection(ALL_TENANTS) as conn:
        left = await conn.fetch("SELECT message FROM notifications ORDER BY message")
    assert [row["message"] for row in left] == ["read", "unread"]


async def test_age_of_the_oldest_open_command_is_told(plane: Plane, clock: FakeClock) -> None:
    """Nothing when all are done."""
    hand = Hand(plane, await plane.tenant())
    try:
        answer = await hand.register("i-1")
        calls = Calls(plane.channel, hand.tenant)
        issued = await calls.issue(answer.agent_id, "greet", expires_in_seconds=60)
        clock.advance(timedelta(seconds=31))
        await run_job(plane, "commands")
        waiting = REGISTRY.get_sample_value("agent_command_oldest_seconds")
        clock.advance(timedelta(seconds=30))
        await run_job(plane, "commands")
    finally:
        await hand.close()

    assert issued.status == "pending"
    assert waiting is not None
    assert 31 <= waiting < 60
    assert REGISTRY.get_sample_value("agent_command_oldest_seconds") == 0
