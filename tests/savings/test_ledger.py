"""What the ledger counts, and when."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from spotplane_server.kernel.db import partitions
from spotplane_server.kernel.db.database import Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.savings.jobs import SavingsJob

from tests.savings.world import Amounts, Machine, Rows, World

DOLLAR: Final = 1_000_000_000
HOUR: Final = timedelta(hours=1)
# Yesterday at noon: any span of a test is in months that have partitions.
NOON: Final = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - (
    timedelta(days=1)
)


@pytest.fixture
def job(db: Database) -> SavingsJob:
    """The job, as the server has it."""
    return SavingsJob(db)


@pytest.fixture
async def tenant_id(world: World) -> TenantId:
    """A tenant in a region where a dollar is the price on demand and 0.4 $ that of pool a."""
    await world.on_demand(NOON - HOUR, DOLLAR)
    await world.spot("a", NOON, 4 * DOLLAR // 10)
    return await world.tenant(NOON)


@pytest.fixture
async def primary(world: World, tenant_id: TenantId) -> Machine:
    """A primary in spot since noon."""
    agent_id = await world.agent(tenant_id, NOON)
    machine = await world.launch(tenant_id, agent_id, NOON)
    await world.heard(machine, NOON)
    return machine


def total(rows: Rows, machine: Machine | None = None) -> Amounts:
    """Sums of baseline, actual, replica and overlap; of one instance or all."""
    found = [v for k, v in rows.items() if machine is None or k[1] == machine.id]
    a, b, c, d = (sum(row[part] for row in found) for part in range(4))
    return a, b, c, d


async def everything(world: World, tenant_id: TenantId, now: datetime) -> Rows:
    """The ledger with what is running."""
    return await world.ledger(tenant_id) | await world.running(tenant_id, now)


async def test_a_bucket_is_closed_when_it_is_over(
    world: World, job: SavingsJob, primary: Machine
) -> None:
    """What is left is counted by whoever reads."""
    now = NOON + timedelta(minutes=7)
    await world.heard(primary, now)
    assert await job.run_once(now) == 1
    assert list(await world.ledger(primary.tenant_id)) == [(primary.agent_id, primary.id, NOON)]
    running = await world.running(primary.tenant_id, now)
    assert total(running)[0] == DOLLAR * 2 // 60
    assert await job.run_once(now) == 0
    told = await world.conn.fetch(
        "SELECT data ->> 'buckets' AS buckets FROM outbox_events"
        " WHERE event_type = 'savings.computed'"
    )
    assert [row["buckets"] for row in told] == ["1"]


async def test_replicas_and_what_was_left_are_costs(
    world: World, job: SavingsJob, primary: Machine
) -> None:
    """A replica, then the primary, and the former one until it is terminated."""
    replica = await world.launch(
        primary.tenant_id, primary.agent_id, NOON, status="running_replica"
    )
    await world.move(primary, "zombie", NOON + HOUR / 2)
    await world.move(replica, "running_primary", NOON + HOUR / 2)
    await world.move(primary, "terminated", NOON + HOUR * 3 / 4)
    await world.heard(replica, NOON + HOUR)
    await job.run_once(NOON + HOUR)
    ledger = await world.ledger(primary.tenant_id)
    assert total(ledger, primary) == pytest.approx((5e8, 2e8, 0, 1e8), abs=20)
    assert total(ledger, replica) == pytest.approx((5e8, 2e8, 2e8, 0), abs=20)


async def test_time_pauses_while_an_agent_is_silent_and_is_filled_in_when_it_is_back(
    world: World, job: SavingsJob, primary: Machine
) -> None:
    """An hour of silence counts; the rest when the instance speaks again."""
    await world.heard(primary, NOON + HOUR)
    silent = NOON + 6 * HOUR
    await job.run_once(silent)
    assert total(await everything(world, primary.tenant_id, silent))[0] == pytest.approx(
        2 * DOLLAR, abs=50
    )

    await world.heard(primary, silent)
    await job.run_once(silent)
    assert total(await everything(world, primary.tenant_id, silent))[0] == pytest.approx(
        6 * DOLLAR, abs=100
    )


async def test_a_primary_that_never_came_back_is_not_filled_in(
    world: World, job: SavingsJob, primary: Machine
) -> None:
    """Another instance took over; only the former one's own word fills its gap."""
    later = NOON + 6 * HOUR
    await job.run_once(later - HOUR)
    successor = await world.launch(
        primary.tenant_id, primary.agent_id, later - HOUR, status="launching"
    )
    await world.move(primary, "terminated", later - HOUR)
    await world.move(successor, "running_primary", later - HOUR)
    await world.heard(successor, later)
    await job.run_once(later)
    ledger = await world.ledger(primary.tenant_id)
    assert total(ledger, primary)[0] == pytest.approx(DOLLAR, abs=50)
    assert total(ledger, successor)[0] == pytest.approx(DOLLAR, abs=50)

    await world.heard(primary, later)
    await job.run_once(later)
    ledger = await world.ledger(primary.tenant_id)
    assert total(ledger, primary)[0] == pytest.approx(5 * DOLLAR, abs=100)


async def test_a_late_price_changes_the_buckets_that_it_stands_for_and_no_others(
    world: World, job: SavingsJob, primary: Machine
) -> None:
    """Until the next price, which was known already."""
    now = NOON + HOUR
    await world.heard(primary, now)
    await world.spot("a", NOON + HOUR / 2, 4 * DOLLAR // 10)
    await job.run_once(now)
    await world.spot("a", NOON + HOUR / 4, 8 * DOLLAR // 10)
    assert await job.run_once(now) == 3
    assert total(await world.ledger(primary.tenant_id)) == pytest.approx(
        (DOLLAR, 5 * DOLLAR // 10, 0, 0), abs=20
    )


async def test_a_price_of_more_than_a_day_ago_is_the_last_known_one(
    world: World, job: SavingsJob, primary: Machine
) -> None:
    """It stays in force."""
    now = NOON + 25 * HOUR
    await world.heard(primary, now)
    await job.run_once(now)
    last = (primary.agent_id, primary.id, NOON + 25 * HOUR - timedelta(minutes=5))
    assert (await world.ledger(primary.tenant_id))[last][1] == 33_333_333


async def test_two_runs_at_once_are_one(db: Database, world: World, tenant_id: TenantId) -> None:
    """Whichever server they belong to."""
    machines = []
    for _ in range(6):
        agent_id = await world.agent(tenant_id, NOON)
        machines.append(await world.launch(tenant_id, agent_id, NOON))
        await world.heard(machines[-1], NOON + 2 * HOUR)
    now = NOON + 2 * HOUR
    await asyncio.gather(*(SavingsJob(db, agents=2, buckets=8).run_once(now) for _ in range(3)))
    await SavingsJob(db).run_once(now)
    ledger = await world.ledger(tenant_id)
    assert len(ledger) == 6 * 24
    days, months = await world.days(tenant_id), await world.months(tenant_id)
    assert total(days) == total(months) == total(ledger)


async def test_what_an_agent_leaves_to_its_successor_is_accounted_until_then(
    world: World, job: SavingsJob, primary: Machine
) -> None:
    """Instances and sessions become the other's; time before that stays where it was."""
    half = NOON + HOUR / 2
    await world.heard(primary, half - timedelta(minutes=2))
    await job.run_once(half - timedelta(minutes=2))
    heir = await world.agent(primary.tenant_id, half)
    for table, stamp in (("agent_sessions", ""), ("instances", ", updated_at = $3")):
        statement = f"UPDATE {table} SET agent_id = $2{stamp} WHERE tenant_id = $1"  # noqa: S608 - two constants
        await world.conn.execute(statement, primary.tenant_id, heir, *([half] if stamp else []))
    await world.heard(primary, NOON + HOUR)
    await job.run_once(NOON + HOUR)
    ledger = await world.ledger(primary.tenant_id)
    shares = [
        total({k: v for k, v in ledger.items() if k[0] == agent})[0]
        for agent in (primary.agent_id, heir)
    ]
    assert shares == pytest.approx([DOLLAR / 2, DOLLAR / 2], abs=20)


async def test_an_agent_that_was_away_for_months_is_accounted(
    world: World, job: SavingsJob, primary: Machine
) -> None:
    """Whatever months that needs."""
    agent_id = await world.agent(primary.tenant_id, NOON)
    then = NOON - timedelta(days=150)
    # Its instance is an event of that time.
    month = partitions.month(then, 0)
    await world.conn.fetchval(partitions.ENSURE, "outbox_events", month, partitions.month(month, 1))
    old = await world.launch(primary.tenant_id, agent_id, then, mode="ondemand", baseline=DOLLAR)
    await world.heard(old, then)
    await job.run_once(NOON)
    spent = total(await everything(world, primary.tenant_id, NOON), old)
    assert spent == pytest.approx((DOLLAR, DOLLAR, 0, 0), abs=50)


async def test_what_is_running_is_counted_for_its_own_tenant(
    db: Database, world: World, primary: Machine
) -> None:
    """A tenant's connection sees nothing of another's, ask for it or not."""
    now = NOON + timedelta(minutes=3)
    await world.heard(primary, now)
    async with db.connection(TenantId(UUID(int=1))) as conn:
        rows = await conn.fetch("SELECT instance_id FROM running_savings(NULL, $1)", now)
    assert rows == []
    async with db.connection(primary.tenant_id) as conn:
        rows = await conn.fetch("SELECT instance_id FROM running_savings(NULL, $1)", now)
    assert [row["instance_id"] for row in rows] == [primary.id]
