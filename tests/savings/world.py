"""Tenants whose instances, prices and signs of life are written straight into the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from spotplane_server.kernel.request_context import TenantId

BUCKET: Final = timedelta(minutes=5)
TYPE: Final = "g5.xlarge"

INSERT_TENANT: Final = """
    INSERT INTO tenants (id, name, email, created_at, updated_at)
    VALUES ($1, 'Test', $1::uuid::text || '@example.com', $2, $2)
"""
INSERT_AGENT: Final = """
    INSERT INTO agents (tenant_id, id, logical_agent_id, hostname, status, created_at, updated_at)
    VALUES ($1, $2, $3, $3, 'online', $4, $4)
"""
INSERT_INSTANCE: Final = """
    INSERT INTO instances (tenant_id, id, agent_id, status, instance_type, region, az, mode,
                           pool_id, baseline_price_nanousd, launched_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
"""
MOVE_INSTANCE: Final = """
    UPDATE instances
       SET status = $3, mode = coalesce($4, mode), pool_id = coalesce($5, pool_id),
           terminated_at = CASE WHEN $3 = 'terminated' THEN $6 ELSE terminated_at END,
           updated_at = $6
     WHERE tenant_id = $1 AND id = $2
"""
HEARD: Final = """
    INSERT INTO agent_sessions (tenant_id, instance_id, agent_id, epoch, session_id, server_id,
                                connected_at, last_heartbeat_at)
    VALUES ($1, $2, $3, 1, gen_random_uuid(), '', $4, $4)
    ON CONFLICT (tenant_id, instance_id) DO UPDATE
       SET last_heartbeat_at = greatest(agent_sessions.last_heartbeat_at, $4)
"""
PUT_SPOT: Final = """
    INSERT INTO clean_prices (pool_id, bucket_at, price_nanousd, source, confidence,
                              observed_at, submission_id, revision)
    VALUES ($1, $2, $3, 'primary', 1, $2, '', 1)
    ON CONFLICT (pool_id, bucket_at) DO UPDATE SET price_nanousd = excluded.price_nanousd
"""
PUT_ON_DEMAND: Final = """
    INSERT INTO on_demand_price_history (region, instance_type, observed_at, price_nanousd)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING
"""
PUT_POOL: Final = """
    INSERT INTO pools (id, instance_type, region, az, price_nanousd, price_observed_at, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $6)
    ON CONFLICT (id) DO UPDATE SET price_nanousd = $5, price_observed_at = $6
"""
PUT_SWITCH: Final = """
    INSERT INTO switches (tenant_id, id, agent_id, old_instance_id, new_instance_id, old_mode,
                          new_mode, trigger, cause, success, savings_impact_nanousd, initiated_at,
                          downtime_seconds, created_at)
    VALUES ($1, $2, $3, $4, $5, 'ondemand', 'spot', $6, 'switch', $7, $8, $9, $10, $9)
"""
LEDGER: Final = """
    SELECT agent_id, instance_id, bucket_at, baseline_nanousd, actual_nanousd, replica_nanousd,
           overlap_nanousd
      FROM savings_buckets WHERE tenant_id = $1
"""
DAYS: Final = """
    SELECT agent_id, instance_id, day_at, baseline_nanousd, actual_nanousd, replica_nanousd,
           overlap_nanousd
      FROM savings_days WHERE tenant_id = $1
"""
MONTHS: Final = """
    SELECT agent_id, instance_id, month_at, baseline_nanousd, actual_nanousd, replica_nanousd,
           overlap_nanousd
      FROM savings_months WHERE tenant_id = $1
"""
RUNNING: Final = """
    SELECT agent_id, instance_id, bucket_at, baseline_nanousd, actual_nanousd, replica_nanousd,
           overlap_nanousd
      FROM running_savings($1, $2)
"""

# By agent, instance and start of the bucket, day or month: baseline, actual, replica, overlap.
Amounts = tuple[int, int, int, int]
Rows = dict[tuple[UUID, str, datetime], Amounts]


def bucket(at: datetime) -> datetime:
    """Start of the five minutes that an instant lies in."""
    return at - timedelta(minutes=at.minute % 5, seconds=at.second, microseconds=at.microsecond)


@dataclass(frozen=True)
class Machine:
    """An instance of an agent."""

    tenant_id: TenantId
    agent_id: UUID
    id: str


class World:
    """A connection of the schema's owner; names are its own, so that worlds share a database."""

    def __init__(self, conn: asyncpg.Connection[asyncpg.Record]) -> None:
        self.conn = conn
        self.region = f"r-{uuid4().hex[:8]}"

    def pool(self, zone: str) -> str:
        """Id of a pool of this world's region."""
        return f"{TYPE}.{self.region}{zone}"

    async def tenant(self, at: datetime) -> TenantId:
        """Add a tenant."""
        tenant_id = TenantId(uuid4())
        await self.conn.execute(INSERT_TENANT, tenant_id, at)
        return tenant_id

    async def agent(self, tenant_id: TenantId, at: datetime, name: str | None = None) -> UUID:
        """Add an agent."""
        agent_id = uuid4()
        await self.conn.execute(INSERT_AGENT, tenant_id, agent_id, name or str(agent_id), at)
        return agent_id

    async def launch(
        self,
        tenant_id: TenantId,
        agent_id: UUID,
        at: datetime,
        *,
        status: str = "running_primary",
        mode: str = "spot",
        zone: str = "a",
        baseline: int | None = None,
    ) -> Machine:
        """Add an instance."""
        machine = Machine(tenant_id, agent_id, f"i-{uuid4().hex[:12]}")
        await self.conn.execute(
            INSERT_INSTANCE,
            tenant_id,
            machine.id,
            agent_id,
            status,
            TYPE,
            self.region,
            f"{self.region}{zone}",
            mode,
            self.pool(zone) if mode == "spot" else None,
            baseline,
            at,
        )
        return machine

    async def move(
        self,
        machine: Machine,
        status: str,
        at: datetime,
        *,
        mode: str | None = None,
        zone: str | None = None,
    ) -> None:
        """Change an instance's state, and perhaps how it is paid for."""
        pool = self.pool(zone) if zone else None
        await self.conn.execute(
            MOVE_INSTANCE, machine.tenant_id, machine.id, status, mode, pool, at
        )

    async def heard(self, machine: Machine, at: datetime) -> None:
        """Take a sign of life down."""
        await self.conn.execute(HEARD, machine.tenant_id, machine.id, machine.agent_id, at)

    async def spot(self, zone: str, at: datetime, price: int) -> None:
        """Set the clean price of the bucket that an instant lies in."""
        await self.conn.execute(PUT_SPOT, self.pool(zone), bucket(at), price)

    async def on_demand(self, at: datetime, price: int) -> None:
        """Add a price on demand."""
        await self.conn.execute(PUT_ON_DEMAND, self.region, TYPE, at, price)

    async def newest(self, zone: str, at: datetime, price: int) -> None:
        """Set the newest price of a pool."""
        await self.conn.execute(
            PUT_POOL, self.pool(zone), TYPE, self.region, f"{self.region}{zone}", price, at
        )

    async def switch(self, old: Machine, new: Machine, at: datetime, **how: Any) -> UUID:
        """Record a switch; ``trigger``, ``success``, ``impact``, ``downtime`` as given."""
        switch_id = uuid4()
        await self.conn.execute(
            PUT_SWITCH,
            new.tenant_id,
            switch_id,
            new.agent_id,
            old.id,
            new.id,
            how.get("trigger", "AUTOMATIC"),
            how.get("success", True),
            how.get("impact", 0),
            at,
            how.get("downtime", 0),
        )
        return switch_id

    async def ledger(self, tenant_id: TenantId) -> Rows:
        """The buckets of a tenant."""
        return _rows(await self.conn.fetch(LEDGER, tenant_id))

    async def days(self, tenant_id: TenantId) -> Rows:
        """The daily sums of a tenant."""
        return _rows(await self.conn.fetch(DAYS, tenant_id))

    async def months(self, tenant_id: TenantId) -> Rows:
        """The monthly sums of a tenant."""
        return _rows(await self.conn.fetch(MONTHS, tenant_id))

    async def running(self, tenant_id: TenantId, now: datetime) -> Rows:
        """What is not in the ledger yet."""
        return _rows(await self.conn.fetch(RUNNING, tenant_id, now))


def _rows(rows: list[Any]) -> Rows:
    return {(row[0], row[1], row[2]): (row[3], row[4], row[5], row[6]) for row in rows}
