"""Store of budgets, published thresholds and stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.spending import rules
from spotplane_server.spending.rules import BudgetStatus

INSERT_BUDGET: Final = """
    INSERT INTO spend_budgets (tenant_id, id, api_key_id, name, period, limit_nanos,
                               alert_thresholds_pct, hard_stop, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
"""

# A key and all its successors so far; a trigger adds later ones.
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

# The count is from the same snapshot as the page, and is returned for an empty page too.
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

# Every period begins and ends at midnight UTC, so that daily rollups, per tenant and per key, are
# sufficient. They are exact and written in the transaction of the records.
LOAD_STATUSES: Final = """
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

# Returns only the new ones; the others were published before.
INSERT_CROSSINGS: Final = """
    INSERT INTO spend_budget_crossings (tenant_id, budget_id, period_start, threshold_pct,
                                        limit_nanos, spent_nanos, crossed_at)
    SELECT $1, $2, $3, share, $5, $6, $7
      FROM unnest($4::int[]) AS share
    ON CONFLICT DO NOTHING
    RETURNING threshold_pct
"""

DELETE_CROSSINGS: Final = """
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
    """Settings of a budget; the last four are mutable."""

    tenant_id: UUID
    id: UUID
    api_key_id: UUID | None
    period: str
    name: str
    limit_nanos: int
    alert_thresholds_pct: list[int]
    hard_stop: bool


@dataclass(frozen=True, slots=True)
class BudgetRef:
    """Identifies a budget."""

    tenant_id: UUID
    id: UUID


async def insert(conn: Conn, draft: Draft, now: datetime) -> None:
    """Create a budget; a key's budget also covers the successors of the key."""
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
    """Count the budgets of a tenant."""
    found: int = await conn.fetchval(COUNT_BUDGETS, tenant_id)
    return found


async def lock(conn: Conn, named: BudgetRef, now: datetime) -> BudgetStatus | None:
    """Lock a budget until the transaction ends and return its status."""
    if await conn.fetchval(LOCK_BUDGET, named.tenant_id, named.id) is None:
        return None
    return (await load_statuses(conn, [named], now))[0]


async def update(conn: Conn, draft: Draft, now: datetime) -> None:
    """Update the mutable settings of a budget."""
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


async def delete(conn: Conn, named: BudgetRef) -> None:
    """Delete a budget and its dependent rows."""
    await conn.execute(DELETE_BUDGET, named.tenant_id, named.id)


async def list_page(
    conn: Conn, tenant_id: UUID, api_key_id: UUID | None, page: Page
) -> Slice[BudgetRef]:
    """List a tenant's budgets, newest first; at most one more than the page's limit."""
    rows = await conn.fetch(
        LIST_BUDGETS, tenant_id, api_key_id, *page.after_instant(), page.limit + 1, page.offset
    )
    found = [BudgetRef(tenant_id, row["id"]) for row in rows if row["id"] is not None]
    return Slice(found, rows[0]["total"])


async def list_after(conn: Conn, after: BudgetRef, *, limit: int) -> Sequence[BudgetRef]:
    """List budgets of tenants that are not deleted, ordered by id, after the given one."""
    rows = await conn.fetch(NEXT_BUDGETS, after.tenant_id, after.id, limit)
    return [BudgetRef(**row) for row in rows]


async def load_statuses(conn: Conn, refs: Sequence[BudgetRef], now: datetime) -> list[BudgetStatus]:
    """Load the status of budgets in one statement, newest first; missing budgets are omitted."""
    periods = rules.current_periods(now)
    rows = await conn.fetch(
        LOAD_STATUSES,
        [named.tenant_id for named in refs],
        [named.id for named in refs],
        list(periods),
        [start for start, _ in periods.values()],
        [end for _, end in periods.values()],
    )
    return [BudgetStatus(**row) for row in rows]


async def record_crossings(
    conn: Conn, budget: BudgetStatus, shares: Sequence[int], now: datetime
) -> list[int]:
    """Record published thresholds; return those that are new, ascending."""
    rows = await conn.fetch(
        INSERT_CROSSINGS,
        budget.tenant_id,
        budget.id,
        budget.period_start,
        list(shares),
        budget.limit_nanos,
        budget.spent_nanos,
        now,
    )
    return sorted(row["threshold_pct"] for row in rows)


async def delete_crossings(conn: Conn, budget: BudgetStatus, kept: set[int]) -> None:
    """Delete the thresholds recorded in the current period, except the given ones."""
    await conn.execute(
        DELETE_CROSSINGS, budget.tenant_id, budget.id, budget.period_start, list(kept)
    )


async def insert_stop(conn: Conn, budget: BudgetStatus, now: datetime) -> None:
    """Block the budget's keys until its period ends."""
    await conn.execute(
        INSERT_STOP,
        budget.tenant_id,
        budget.id,
        budget.api_key_id is not None,
        budget.period_start,
        None if budget.endless else budget.period_end,
        now,
    )


async def delete_stop(conn: Conn, budget: BudgetStatus) -> None:
    """Unblock the budget's keys."""
    await conn.execute(DELETE_STOP, budget.tenant_id, budget.id)
