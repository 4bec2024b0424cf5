"""Budgets, what was told of them, and stops in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.spending import rules
from spotplane_server.spending.rules import Standing

INSERT_BUDGET: Final = """
    INSERT INTO spend_budgets (tenant_id, id, api_key_id, name, period, limit_nanos,
                               alert_thresholds_pct, hard_stop, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
"""

# A key, and all that it has been rotated to; what comes later is added by a trigger.
COVER_KEYS: Final = """
    WITH RECURSIVE line (id, replaced_by) AS (
        SELECT id, replaced_by
          FROM api_keys
         WHERE tenant_id = $1 AND id = $3
         UNION
        SELECT k.id, k.replaced_by
          FROM line l
          JOIN api_keys k ON k.tenant_id = $1 AND k.id = l.replaced_by)
    INSERT INTO spend_budget_keys (tenant_id, budget_id, api_key_id)
    SELECT $1, $2, id
      FROM line
"""

COUNT_BUDGETS: Final = "SELECT count(*) FROM spend_budgets WHERE tenant_id = $1"

LOCK_BUDGET: Final = """
    SELECT id
      FROM spend_budgets
     WHERE tenant_id = $1 AND id = $2
       FOR UPDATE
"""

UPDATE_BUDGET: Final = """
    UPDATE spend_budgets
       SET name = $3, limit_nanos = $4, alert_thresholds_pct = $5, hard_stop = $6, updated_at = $7
     WHERE tenant_id = $1 AND id = $2
"""

DELETE_BUDGET: Final = "DELETE FROM spend_budgets WHERE tenant_id = $1 AND id = $2"

# The count is of the same snapshot as the page, and is there for an empty page too.
LIST_BUDGETS: Final = """
    SELECT c.total, b.id
      FROM (SELECT count(*) AS total
              FROM spend_budgets
             WHERE tenant_id = $1
               AND ($2::uuid IS NULL OR api_key_id = $2)) c
      LEFT JOIN LATERAL (
            SELECT id, created_at
              FROM spend_budgets
             WHERE tenant_id = $1
               AND ($2::uuid IS NULL OR api_key_id = $2)
               AND ($3::timestamptz IS NULL OR created_at < $3 OR (created_at = $3 AND id > $4))
             ORDER BY created_at DESC, id
             LIMIT $5 OFFSET $6) b ON true
     ORDER BY b.created_at DESC, b.id
"""

NEXT_BUDGETS: Final = """
    SELECT b.tenant_id, b.id
      FROM spend_budgets b
      JOIN tenants t ON t.id = b.tenant_id AND t.status <> 'deleted'
     WHERE (b.tenant_id, b.id) > ($1, $2)
     ORDER BY b.tenant_id, b.id
     LIMIT $3
"""

# Days hold what a tenant used, and in a cut what each key did: every period begins and ends at
# midnight, UTC. Both are exact and written in the transaction of the records.
READ_STANDINGS: Final = """
    SELECT b.tenant_id, b.id, b.api_key_id, b.name, b.period, b.limit_nanos,
           b.alert_thresholds_pct, b.hard_stop, b.created_at, b.updated_at,
           p.starts_at AS period_start, p.ends_at AS period_end,
           (d.nanos + k.nanos)::bigint AS spent_nanos,
           ARRAY(SELECT c.threshold_pct
                   FROM spend_budget_crossings c
                  WHERE c.tenant_id = b.tenant_id
                    AND c.budget_id = b.id
                    AND c.period_start = p.starts_at) AS crossed,
           s.period_start AS stopped_period
      FROM unnest($1::uuid[], $2::uuid[]) AS wanted (tenant_id, id)
      JOIN spend_budgets b ON b.tenant_id = wanted.tenant_id AND b.id = wanted.id
      JOIN unnest($3::text[], $4::timestamptz[], $5::timestamptz[])
           AS p (period, starts_at, ends_at) ON p.period = b.period
     CROSS JOIN LATERAL (
            SELECT coalesce(sum(r.cost_nanos), 0) AS nanos
              FROM usage_rollups r
             WHERE b.api_key_id IS NULL
               AND r.tenant_id = b.tenant_id AND r.rollup = 'day'
               AND r.starts_at >= p.starts_at AND r.starts_at < p.ends_at) d
     CROSS JOIN LATERAL (
            SELECT coalesce(sum(r.cost_nanos), 0) AS nanos
              FROM usage_rollups r
             WHERE b.api_key_id IS NOT NULL
               AND r.tenant_id = b.tenant_id AND r.rollup = 'day_api_key'
               AND r.starts_at >= p.starts_at AND r.starts_at < p.ends_at
               AND r.api_key_id IN (SELECT c.api_key_id
                                      FROM spend_budget_keys c
                                     WHERE c.tenant_id = b.tenant_id AND c.budget_id = b.id)) k
      LEFT JOIN spend_stops s ON s.tenant_id = b.tenant_id AND s.budget_id = b.id
     ORDER BY b.created_at DESC, b.id
"""

# What is new of it is answered; the rest was told before.
INSERT_CROSSINGS: Final = """
    INSERT INTO spend_budget_crossings (tenant_id, budget_id, period_start, threshold_pct,
                                        limit_nanos, spent_nanos, crossed_at)
    SELECT $1, $2, $3, share, $5, $6, $7
      FROM unnest($4::int[]) AS share
    ON CONFLICT DO NOTHING
    RETURNING threshold_pct
"""

FORGET_CROSSINGS: Final = """
    DELETE FROM spend_budget_crossings
     WHERE tenant_id = $1 AND budget_id = $2 AND period_start = $3
       AND NOT threshold_pct = ANY ($4::int[])
"""

INSERT_STOP: Final = """
    INSERT INTO spend_stops (tenant_id, budget_id, by_key, period_start, until, stopped_at)
    VALUES ($1, $2, $3, $4, $5, $6)
"""

DELETE_STOP: Final = "DELETE FROM spend_stops WHERE tenant_id = $1 AND budget_id = $2"


@dataclass(frozen=True, slots=True)
class Draft:
    """A budget's settings; the last four can change."""

    tenant_id: UUID
    id: UUID
    api_key_id: UUID | None
    period: str
    name: str
    limit_nanos: int
    alert_thresholds_pct: list[int]
    hard_stop: bool


@dataclass(frozen=True, slots=True)
class Named:
    """Which budget."""

    tenant_id: UUID
    id: UUID


async def insert(conn: Conn, draft: Draft, now: datetime) -> None:
    """Create a budget; one of a key covers whatever that has been rotated to."""
    await conn.execute(
        INSERT_BUDGET,
        draft.tenant_id,
        draft.id,
        draft.api_key_id,
        draft.name,
        draft.period,
        draft.limit_nanos,
        draft.alert_thresholds_pct,
        draft.hard_stop,
        now,
    )
    if draft.api_key_id is not None:
        await conn.execute(COVER_KEYS, draft.tenant_id, draft.id, draft.api_key_id)


async def count(conn: Conn, tenant_id: UUID) -> int:
    """How many budgets a tenant has."""
    found: int = await conn.fetchval(COUNT_BUDGETS, tenant_id)
    return found


async def lock(conn: Conn, named: Named, now: datetime) -> Standing | None:
    """A budget as it stands, which nobody else changes or acts upon until the transaction ends."""
    if await conn.fetchval(LOCK_BUDGET, named.tenant_id, named.id) is None:
        return None
    return (await read(conn, [named], now))[0]


async def update(conn: Conn, draft: Draft, now: datetime) -> None:
    """Change what can change of a budget."""
    await conn.execute(
        UPDATE_BUDGET,
        draft.tenant_id,
        draft.id,
        draft.name,
        draft.limit_nanos,
        draft.alert_thresholds_pct,
        draft.hard_stop,
        now,
    )


async def delete(conn: Conn, named: Named) -> None:
    """Forget a budget with all that hangs on it."""
    await conn.execute(DELETE_BUDGET, named.tenant_id, named.id)


async def list_page(
    conn: Conn, tenant_id: UUID, api_key_id: UUID | None, page: Page
) -> Slice[Named]:
    """A tenant's budgets, newest first; at most one more than the page's limit."""
    rows = await conn.fetch(
        LIST_BUDGETS, tenant_id, api_key_id, *page.after_instant(), page.limit + 1, page.offset
    )
    found = [Named(tenant_id, row["id"]) for row in rows if row["id"] is not None]
    return Slice(found, rows[0]["total"])


async def following(conn: Conn, after: Named, *, limit: int) -> Sequence[Named]:
    """Budgets of tenants that are not deleted, all of them, in the order of their ids."""
    rows = await conn.fetch(NEXT_BUDGETS, after.tenant_id, after.id, limit)
    return [Named(**row) for row in rows]


async def read(conn: Conn, wanted: Sequence[Named], now: datetime) -> list[Standing]:
    """How budgets stand, newest first; what is gone is left out. One statement for them all."""
    periods = rules.running(now)
    rows = await conn.fetch(
        READ_STANDINGS,
        [named.tenant_id for named in wanted],
        [named.id for named in wanted],
        list(periods),
        [start for start, _ in periods.values()],
        [end for _, end in periods.values()],
    )
    return [Standing(**row) for row in rows]


async def record_crossings(
    conn: Conn, standing: Standing, shares: Sequence[int], now: datetime
) -> list[int]:
    """Remember that shares are told of; those that were not before, ascending."""
    rows = await conn.fetch(
        INSERT_CROSSINGS,
        standing.tenant_id,
        standing.id,
        standing.period_start,
        list(shares),
        standing.limit_nanos,
        standing.spent_nanos,
        now,
    )
    return sorted(row["threshold_pct"] for row in rows)


async def forget_crossings(conn: Conn, standing: Standing, kept: set[int]) -> None:
    """Forget what was told of in the running period, but for the shares given."""
    await conn.execute(
        FORGET_CROSSINGS, standing.tenant_id, standing.id, standing.period_start, list(kept)
    )


async def insert_stop(conn: Conn, standing: Standing, now: datetime) -> None:
    """Stop the budget's keys until its period ends."""
    await conn.execute(
        INSERT_STOP,
        standing.tenant_id,
        standing.id,
        standing.api_key_id is not None,
        standing.period_start,
        None if standing.endless else standing.period_end,
        now,
    )


async def delete_stop(conn: Conn, standing: Standing) -> None:
    """Let the budget's keys go on."""
    await conn.execute(DELETE_STOP, standing.tenant_id, standing.id)
