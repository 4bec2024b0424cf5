"""The switches table and its one writer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.switches import rules
from spotplane_server.switches.rules import Told

# The old process waits as long as the agent is told to before it ends its instance and itself.
INSERT_SWITCH: Final = """
    WITH agent AS (
        SELECT logical_agent_id, terminate_wait_seconds
          FROM agents WHERE tenant_id = $1 AND id = $3),
    made AS (
        INSERT INTO switches (tenant_id, id, agent_id, command_id, old_instance_id,
                              new_instance_id, old_mode, new_mode, old_pool_id, new_pool_id,
                              old_az, new_az, trigger, cause, success, error_message,
                              old_price_nanousd, new_price_nanousd, savings_impact_nanousd,
                              initiated_at, launched_at, ready_at, traffic_switched_at,
                              old_terminated_at, downtime_seconds, duration_seconds, reported,
                              goodbye_owed_until, created_at)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
               $19, $20, $21, $22, $23, $24, $25, $26, $27,
               CASE WHEN $28 THEN $29::timestamptz + $30::interval
                                  + make_interval(secs => terminate_wait_seconds) END,
               $29
          FROM agent
        RETURNING id)
    SELECT agent.logical_agent_id FROM agent, made
"""

# What a report adds to a switch that is recorded already; what was told once is not told again.
FILL_SWITCH: Final = """
    UPDATE switches
       SET old_price_nanousd = coalesce($3, old_price_nanousd),
           new_price_nanousd = coalesce($4, new_price_nanousd),
           savings_impact_nanousd = coalesce($3, old_price_nanousd, 0)
                                    - coalesce($4, new_price_nanousd, 0),
           initiated_at = coalesce($5, initiated_at),
           launched_at = coalesce($6, launched_at),
           ready_at = coalesce($7, ready_at),
           traffic_switched_at = coalesce($8, traffic_switched_at),
           old_terminated_at = coalesce($9, old_terminated_at),
           downtime_seconds = $10,
           duration_seconds = $11,
           reported = true
     WHERE tenant_id = $1 AND id = $2 AND NOT reported
"""

# A switch that seemed to happen in place turns out to have led to another instance.
REDIRECT_SWITCH: Final = """
    UPDATE switches s
       SET new_instance_id = $3, new_mode = $4, new_pool_id = $5, new_az = $6,
           new_price_nanousd = coalesce($7, new_price_nanousd),
           savings_impact_nanousd = coalesce(old_price_nanousd, 0)
                                    - coalesce($7, new_price_nanousd, 0),
           goodbye_owed_until = $8::timestamptz + $9::interval
                                + make_interval(secs => a.terminate_wait_seconds)
      FROM agents a
     WHERE s.tenant_id = $1 AND s.id = $2 AND a.tenant_id = s.tenant_id AND a.id = s.agent_id
"""

# The oldest one still owed; or the one of an instance that said its name.
SETTLE_GOODBYE: Final = """
    UPDATE switches
       SET goodbye_at = $4
     WHERE tenant_id = $1
       AND id = (SELECT id
                   FROM switches
                  WHERE tenant_id = $1 AND agent_id = $2
                    AND goodbye_owed_until >= $4 AND goodbye_at IS NULL
                    AND ($3::text IS NULL OR old_instance_id = $3)
                  ORDER BY created_at, id
                  LIMIT 1
                    FOR UPDATE)
    RETURNING old_instance_id
"""

# The newest of a command, or of a pair of instances. An agent that left an instance may come back
# to it, so a pair is no key.
FIND_SWITCH: Final = """
    SELECT tenant_id, id, agent_id, command_id, old_instance_id, new_instance_id, old_mode,
           old_pool_id, new_mode, new_pool_id, trigger, cause, success, reported, created_at
      FROM switches
     WHERE tenant_id = $1 AND agent_id = $2 AND success = $6
       AND (command_id = $3 OR ($3::uuid IS NULL AND old_instance_id IS NOT DISTINCT FROM $4
                                AND new_instance_id IS NOT DISTINCT FROM $5))
     ORDER BY created_at DESC, id
     LIMIT 1
"""

# A switch that seemed to happen in place a moment ago, and of which its agent has said nothing.
FIND_IN_PLACE: Final = """
    SELECT tenant_id, id, agent_id, command_id, old_instance_id, new_instance_id, old_mode,
           old_pool_id, new_mode, new_pool_id, trigger, cause, success, reported, created_at
      FROM switches
     WHERE tenant_id = $1 AND agent_id = $2 AND old_instance_id = $3 AND new_instance_id = $3
       AND success AND NOT reported AND created_at > $4
     ORDER BY created_at DESC, id
     LIMIT 1
"""

FIND_LED_TO: Final = """
    SELECT tenant_id, id, agent_id, command_id, old_instance_id, new_instance_id, old_mode,
           old_pool_id, new_mode, new_pool_id, trigger, cause, success, reported, created_at
      FROM switches
     WHERE tenant_id = $1 AND agent_id = $2 AND new_instance_id = $3 AND success
     ORDER BY created_at DESC, id
     LIMIT 1
"""

# Of an agent whose place another one has taken, within the connection's scope.
FIND_INHERITED: Final = """
    SELECT s.id
      FROM agents a
      JOIN switches s ON s.tenant_id = a.tenant_id AND s.agent_id = a.superseded_by
     WHERE a.id = $1 AND a.superseded_by IS NOT NULL AND s.success
       AND s.new_instance_id = $3 AND ($2::text IS NULL OR s.old_instance_id = $2)
     ORDER BY s.created_at DESC, s.id
     LIMIT 1
"""

# The clean price of the time, else the newest known of then or of the day before.
PRICE_AT: Final = """
    SELECT CASE WHEN $1 = 'spot'
                THEN coalesce((SELECT c.price_nanousd
                                 FROM clean_prices c
                                WHERE c.pool_id = $2 AND c.bucket_at <= $5 AND c.bucket_at > $6
                                ORDER BY c.bucket_at DESC
                                LIMIT 1),
                              (SELECT p.price_nanousd FROM pools p
                                WHERE p.id = $2 AND p.price_observed_at > $6))
                ELSE coalesce((SELECT o.price_nanousd
                                 FROM on_demand_price_history o
                                WHERE o.region = $3 AND o.instance_type = $4 AND o.observed_at <= $5
                                ORDER BY o.observed_at DESC
                                LIMIT 1),
                              (SELECT o.price_nanousd FROM on_demand_prices o
                                WHERE o.region = $3 AND o.instance_type = $4))
           END
"""

# The new primary of an emergency has come alive: how long nothing served is known now.
SETTLE_DOWNTIMES: Final = """
    UPDATE switches s
       SET ready_at = h.connected_at,
           downtime_seconds = greatest(0, floor(coalesce(extract(epoch FROM h.connected_at
               - coalesce(s.old_terminated_at, o.terminated_at, f.deadline)), 0)))::int
      FROM agent_sessions h, switches w
      LEFT JOIN instances o ON o.tenant_id = w.tenant_id AND o.id = w.old_instance_id
      LEFT JOIN LATERAL (SELECT max(f.deadline) AS deadline
                           FROM failovers f
                          WHERE f.tenant_id = w.tenant_id AND f.agent_id = w.agent_id
                            AND f.instance_id = w.old_instance_id) f ON true
     WHERE w.trigger = 'EMERGENCY' AND w.success AND NOT w.reported AND w.ready_at IS NULL
       AND w.created_at > $1
       AND s.tenant_id = w.tenant_id AND s.id = w.id
       AND h.tenant_id = w.tenant_id AND h.instance_id = w.new_instance_id
"""

# An agent that another one takes over leaves it its past.
REHOME_SWITCHES: Final = """
    UPDATE switches SET agent_id = $3 WHERE tenant_id = $1 AND agent_id = $2
"""

PRICE_AGE: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Row:
    """A switch as it is written; see the table for what the members mean."""

    id: UUID
    agent_id: UUID
    command_id: UUID | None
    old: rules.Side | None
    new: rules.Side | None
    trigger: str
    cause: str
    success: bool
    error_message: str | None
    told: Told
    reported: bool


@dataclass(frozen=True, slots=True)
class Known:
    """A switch that is recorded already."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID
    command_id: UUID | None
    old_instance_id: str | None
    new_instance_id: str | None
    old_mode: str | None
    old_pool_id: str | None
    new_mode: str | None
    new_pool_id: str | None
    trigger: str
    cause: str
    success: bool
    reported: bool
    created_at: datetime

    @property
    def in_place(self) -> bool:
        """Whether the agent stayed on its instance."""
        return self.old_instance_id == self.new_instance_id


async def insert(
    conn: Conn, tenant_id: TenantId, row: Row, *, owed: bool, now: datetime
) -> str | None:
    """Write a switch; the agent's own name, None when there is no such agent."""
    told, old, new = row.told, row.old, row.new
    name: str | None = await conn.fetchval(
        INSERT_SWITCH,
        tenant_id,
        row.id,
        row.agent_id,
        row.command_id,
        old and old.instance_id,
        new and new.instance_id,
        old and old.mode,
        new and new.mode,
        old and old.pool_id,
        new and new.pool_id,
        old and old.az,
        new and new.az,
        row.trigger,
        row.cause,
        row.success,
        row.error_message,
        told.old_price_nanousd,
        told.new_price_nanousd,
        rules.impact(told.old_price_nanousd, told.new_price_nanousd) if row.success else 0,
        told.initiated_at or now,
        told.launched_at,
        told.ready_at,
        told.traffic_switched_at,
        told.old_terminated_at,
        rules.downtime_seconds(told),
        rules.duration_seconds(told),
        row.reported,
        owed,
        now,
        rules.GOODBYE_GRACE,
    )
    return name


async def fill_report(conn: Conn, tenant_id: TenantId, switch_id: UUID, told: Told) -> bool:
    """Add what the agent says of a recorded switch; False when it has said so before."""
    done = await conn.execute(
        FILL_SWITCH,
        tenant_id,
        switch_id,
        told.old_price_nanousd,
        told.new_price_nanousd,
        told.initiated_at,
        told.launched_at,
        told.ready_at,
        told.traffic_switched_at,
        told.old_terminated_at,
        rules.downtime_seconds(told),
        rules.duration_seconds(told),
    )
    return bool(done == "UPDATE 1")


async def redirect(
    conn: Conn,
    tenant_id: TenantId,
    switch_id: UUID,
    new: rules.Side,
    price_nanousd: int | None,
    now: datetime,
) -> None:
    """Give a switch that was taken for one in place the instance that it really led to."""
    await conn.execute(
        REDIRECT_SWITCH,
        tenant_id,
        switch_id,
        new.instance_id,
        new.mode,
        new.pool_id,
        new.az,
        price_nanousd,
        now,
        rules.GOODBYE_GRACE,
    )


async def settle_goodbye(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    now: datetime,
    *,
    instance_id: str | None = None,
) -> str | None:
    """Attribute a goodbye to the oldest switch that still owes one.

    Args:
        conn: In the transaction that takes the goodbye.
        tenant_id: Whose agent it is.
        agent_id: The agent.
        now: When it was said.
        instance_id: The instance that said so by its name; None for a goodbye without one.

    Returns:
        The instance that has left; None when no goodbye was owed, so that the word is the
        primary's.
    """
    left: str | None = await conn.fetchval(SETTLE_GOODBYE, tenant_id, agent_id, instance_id, now)
    return left


async def find(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    *,
    command_id: UUID | None = None,
    pair: tuple[str | None, str | None] = (None, None),
    success: bool = True,
) -> Known | None:
    """The newest switch of a command, or of a pair of old and new instance without one."""
    row = await conn.fetchrow(FIND_SWITCH, tenant_id, agent_id, command_id, *pair, success)
    return Known(**row) if row else None


async def find_in_place(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str, *, since: datetime
) -> Known | None:
    """The newest switch that seemed to leave the agent on an instance, still without a report."""
    row = await conn.fetchrow(FIND_IN_PLACE, tenant_id, agent_id, instance_id, since)
    return Known(**row) if row else None


async def find_led_to(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str
) -> Known | None:
    """The newest switch that led to an instance."""
    row = await conn.fetchrow(FIND_LED_TO, tenant_id, agent_id, instance_id)
    return Known(**row) if row else None


async def find_inherited(
    conn: Conn, agent_id: UUID, pair: tuple[str | None, str | None]
) -> UUID | None:
    """The switch by which another agent took an agent's place; None when none did."""
    found: UUID | None = await conn.fetchval(FIND_INHERITED, agent_id, *pair)
    return found


async def price_at(conn: Conn, side: rules.Side, at: datetime) -> int | None:
    """What an instance cost an hour at an instant, nano-USD; None when nobody knew."""
    price: int | None = await conn.fetchval(
        PRICE_AT, side.mode, side.pool_id, side.region, side.instance_type, at, at - PRICE_AGE
    )
    return price


async def settle_downtimes(conn: Conn, *, since: datetime) -> int:
    """Measure emergencies whose new primary has come alive; how many there were."""
    done = await conn.execute(SETTLE_DOWNTIMES, since)
    return int(done.split()[-1])


async def rehome(conn: Conn, tenant_id: TenantId, agent_id: UUID, to: UUID) -> None:
    """Hand an agent's switches to the one that takes its place."""
    await conn.execute(REHOME_SWITCHES, tenant_id, agent_id, to)
