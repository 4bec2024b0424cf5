"""Notifications come of events, once each; alerts of clean prices."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from spotplane.v1 import notification_pb2 as pb
from spotplane.v1 import notification_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from spotplane_server.events import Event, append
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.notifications import store
from spotplane_server.notifications.jobs import NotificationsJob, PriceAlertsJob
from spotplane_server.prices.rules import bucket

from tests.support.clock import FakeClock
from tests.support.link import Hand
from tests.support.plane import ADMIN, Plane, Tenant

POOL = "m5.large.us-east-1a"
PUT_POOL = """
    INSERT INTO pools (id, instance_type, region, az, created_at)
    VALUES ($1, 'm5.large', 'us-east-1', 'us-east-1a', $2)
    ON CONFLICT (id) DO NOTHING
"""
PUT_CLEAN = """
    WITH next AS (UPDATE clean_revision SET revision = revision + 1 RETURNING revision)
    INSERT INTO clean_prices (pool_id, bucket_at, price_nanousd, source, confidence, observed_at,
                              submission_id, revision)
    SELECT $1, $2, $3, $4, 1, $2, 's', revision FROM next
"""
LIST_TOLD = "SELECT message FROM notifications WHERE tenant_id = $1 ORDER BY created_at, id"
COUNT_EVENTS = "SELECT count(*) FROM outbox_events WHERE event_type = $1"


async def tell(
    db: Database, kind: str, tenant: Tenant | None, now: datetime, **data: object
) -> None:
    """Write an event."""
    async with db.transaction(ALL_TENANTS) as conn:
        owner = UUID(tenant.id) if tenant else None
        await append(conn, Event(kind, "x", data, owner), now)


async def told(db: Database, tenant: Tenant) -> list[str]:
    """A tenant's notifications, oldest first."""
    async with db.connection(ALL_TENANTS) as conn:
        return [row["message"] for row in await conn.fetch(LIST_TOLD, UUID(tenant.id))]


async def test_event_is_told_once_however_many_read_it(plane: Plane, clock: FakeClock) -> None:
    """Two processes at the same time, and again later."""
    tenant = await plane.tenant()
    for n in range(5):
        await tell(plane.db, "switch.failed", tenant, clock.now(), message=f"reason {n}")

    jobs = [NotificationsJob(plane.db) for _ in range(3)]
    await asyncio.gather(*(job.run_once(clock.now()) for job in jobs))
    await jobs[0].run_once(clock.now())

    mine = [text for text in await told(plane.db, tenant) if "reason" in text]
    assert sorted(mine) == [f"The switch of agent an agent failed: reason {n}" for n in range(5)]


async def test_equal_messages_within_five_minutes_are_one(plane: Plane, clock: FakeClock) -> None:
    """And one more after them."""
    tenant = await plane.tenant()
    start = clock.now()
    for minutes in (0, 1, 4, 6):
        at = start + timedelta(minutes=minutes)
        await tell(plane.db, "switch.failed", tenant, at, message="same")

    await NotificationsJob(plane.db).run_once(clock.now())

    assert len([text for text in await told(plane.db, tenant) if "same" in text]) == 2


async def test_crash_before_the_commit_loses_and_doubles_nothing(
    plane: Plane, clock: FakeClock
) -> None:
    """The place moves with what was made."""
    tenant = await plane.tenant()
    await tell(plane.db, "switch.failed", tenant, clock.now(), message="crash")
    with suppress(asyncpg.RaiseError):
        async with plane.db.transaction(ALL_TENANTS) as conn:
            await store.lock_cursor(conn, "notifications")
            await store.move_cursor(conn, "notifications", (2**40, 0))
            await conn.execute("DO $$ BEGIN RAISE EXCEPTION 'cut'; END $$")

    await NotificationsJob(plane.db).run_once(clock.now())

    assert [text for text in await told(plane.db, tenant) if "crash" in text] == [
        "The switch of agent an agent failed: crash"
    ]


async def _alert(plane: Plane, tenant: Tenant, **fields: Any) -> pb.PricingAlert:
    stub = notification_pb2_grpc.NotificationServiceStub(plane.channel)
    request = pb.CreatePricingAlertRequest(threshold_nanousd=500_000_000, **fields)
    made: pb.PricingAlert = await stub.CreatePricingAlert(request, metadata=tenant.metadata)
    return made


async def _clean(
    plane: Plane, at: datetime, dollars: float, *, source: str = "primary", pool: str = POOL
) -> None:
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute(PUT_CLEAN, pool, bucket(at), round(dollars * 1e9), source)


async def _fired(plane: Plane) -> int:
    async with plane.db.connection(ALL_TENANTS) as conn:
        return int(await conn.fetchval(COUNT_EVENTS, "price_alert.triggered"))


@pytest.fixture
async def pool(plane: Plane, clock: FakeClock) -> str:
    """A pool that somebody has reported."""
    async with plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute(PUT_POOL, POOL, clock.now())
    return POOL


async def test_alert_fires_on_clean_prices_and_tells(
    plane: Plane, clock: FakeClock, pool: str
) -> None:
    """Once, in words, and with the instant on the alert; other tenants hear nothing."""
    tenant, other = await plane.tenant(), await plane.tenant()
    await _alert(plane, tenant, pool_id=pool)
    job = PriceAlertsJob(plane.db, by_mail=False)

    for minutes, price in ((5, 0.4), (10, 0.6), (15, 0.7)):
        await _clean(plane, clock.now() + timedelta(minutes=minutes), price)
        await job.run_once(clock.now())
    await NotificationsJob(plane.db).run_once(clock.now())

    assert await _fired(plane) == 1
    assert [text for text in await told(plane.db, tenant) if "price" in text] == [
        f"The price of pool {POOL}, $0.6000/h, is at or above $0.5000/h"
    ]
    assert await told(plane.db, other) == []
    stub = notification_pb2_grpc.NotificationServiceStub(plane.channel)
    listed = await stub.ListPricingAlerts(pb.ListPricingAlertsRequest(), metadata=tenant.metadata)
    assert listed.alerts[0].HasField("last_trigger_time")


async def test_interpolated_and_earlier_prices_do_not_fire(
    plane: Plane, clock: FakeClock, pool: str
) -> None:
    """Only what was seen after the alert was made."""
    tenant = await plane.tenant()
    await _clean(plane, clock.now() - timedelta(hours=1), 0.9)
    await _alert(plane, tenant, pool_id=pool)
    await _clean(plane, clock.now() + timedelta(minutes=5), 0.9, source="interpolated")

    await PriceAlertsJob(plane.db, by_mail=False).run_once(clock.now())

    assert await _fired(plane) == 0


async def test_alert_without_a_pool_watches_where_the_tenant_runs(
    plane: Plane, clock: FakeClock, pool: str
) -> None:
    """And nowhere else."""
    tenant, idle = await plane.tenant(), await plane.tenant()
    await Hand(plane, tenant).register("i-1")
    async with plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute("UPDATE instances SET pool_id = $1", POOL)
    await _alert(plane, tenant)
    await _alert(plane, idle)
    await _clean(plane, clock.now() + timedelta(minutes=5), 0.9)

    await PriceAlertsJob(plane.db, by_mail=False).run_once(clock.now())

    assert await _fired(plane) == 1


async def test_two_processes_step_an_alert_once(plane: Plane, clock: FakeClock, pool: str) -> None:
    """The place in the news is theirs in turn."""
    tenant = await plane.tenant()
    await _alert(plane, tenant, pool_id=pool)
    await _clean(plane, clock.now() + timedelta(minutes=5), 0.9)

    jobs = [PriceAlertsJob(plane.db, by_mail=False) for _ in range(3)]
    await asyncio.gather(*(job.run_once(clock.now()) for job in jobs))

    assert await _fired(plane) == 1


async def test_condition_that_is_true_already_fires_at_the_next_evaluation(
    plane: Plane, clock: FakeClock, pool: str
) -> None:
    """Without a new price, and once."""
    tenant = await plane.tenant()
    job = PriceAlertsJob(plane.db, by_mail=False)
    await _clean(plane, clock.now(), 0.9)
    await job.run_once(clock.now())
    await _alert(plane, tenant, pool_id=pool)

    await job.run_once(clock.now())
    assert await _fired(plane) == 1
    await _clean(plane, clock.now() + timedelta(minutes=5), 0.95)
    await job.run_once(clock.now())
    assert await _fired(plane) == 1


async def test_alert_of_all_pools_fires_at_the_next_evaluation_too(
    plane: Plane, clock: FakeClock, pool: str
) -> None:
    tenant = await plane.tenant()
    await Hand(plane, tenant).register("i-1")
    async with plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute("UPDATE instances SET pool_id = $1", POOL)
    await _clean(plane, clock.now(), 0.9)
    await _alert(plane, tenant)

    await PriceAlertsJob(plane.db, by_mail=False).run_once(clock.now())

    assert await _fired(plane) == 1


@pytest.mark.parametrize("source", ["interpolated", "primary"])
async def test_price_that_is_not_current_fires_nothing(
    plane: Plane, clock: FakeClock, pool: str, source: str
) -> None:
    """An interpolated one, or one of 20 minutes ago; the next one does."""
    tenant = await plane.tenant()
    job = PriceAlertsJob(plane.db, by_mail=False)
    age = timedelta(minutes=0 if source == "interpolated" else 20)
    await _clean(plane, clock.now() - age, 0.9, source=source)
    await _alert(plane, tenant, pool_id=pool)
    await job.run_once(clock.now())
    assert await _fired(plane) == 0

    await _clean(plane, clock.now() + timedelta(minutes=5), 0.9)
    await job.run_once(clock.now())
    assert await _fired(plane) == 1


async def test_deleted_tenant_gets_no_notification_and_no_alert(
    plane: Plane, clock: FakeClock, pool: str
) -> None:
    """Neither of events from before its deletion nor of later ones."""
    tenant = await plane.tenant()
    await _alert(plane, tenant, pool_id=pool)
    await tell(plane.db, "switch.failed", tenant, clock.now(), message="before")
    await plane.stub(tenant_pb2_grpc.TenantServiceStub).DeleteTenant(
        tenant_pb2.DeleteTenantRequest(id=tenant.id), metadata=ADMIN
    )
    await tell(plane.db, "switch.failed", tenant, clock.now(), message="after")
    await _clean(plane, clock.now() + timedelta(minutes=5), 0.9)

    await PriceAlertsJob(plane.db, by_mail=False).run_once(clock.now())
    await NotificationsJob(plane.db).run_once(clock.now())

    assert await told(plane.db, tenant) == []
    assert await _fired(plane) == 0
