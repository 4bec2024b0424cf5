"""The ledger's tables and their one writer.

A change of a span or of a clean price, and an instance that is heard of again, make buckets that
are made already out of date, however old they are; the next run makes them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from spotplane_server.kernel.db.database import Conn
from spotplane_server.savings.rules import Progress, Step

TAKE_SPAN_CHANGES: Final = """
    WITH taken AS (
        DELETE FROM savings_span_changes c
         USING (SELECT tenant_id, seq FROM savings_span_changes
                 ORDER BY seq LIMIT $1) t
         WHERE c.tenant_id = t.tenant_id AND c.seq = t.seq
        RETURNING c.tenant_id, c.agent_id, c.from_at),
    firsts AS (
        SELECT tenant_id, agent_id, savings_bucket(min(from_at)) AS from_at
          FROM taken GROUP BY tenant_id, agent_id),
    marked AS (
        UPDATE savings_agents a
           SET dirty_from = least(a.dirty_from, f.from_at), dirty_until = a.closed_until
          FROM firsts f
         WHERE a.tenant_id = f.tenant_id AND a.agent_id = f.agent_id AND f.from_at < a.closed_until)
    SELECT count(*) FROM taken
"""

TAKE_PRICE_CHANGES: Final = """
    WITH taken AS (
        DELETE FROM savings_price_changes c
         USING (SELECT seq FROM savings_price_changes
                 ORDER BY seq LIMIT $1) t
         WHERE c.seq = t.seq
        RETURNING c.pool_id, c.region, c.instance_type, c.from_at, c.until_at),
    changes AS (
        SELECT pool_id, region, instance_type, savings_bucket(min(from_at)) AS from_at,
               max(until_at) AS until_at
          FROM taken GROUP BY pool_id, region, instance_type),
    touched AS (
        SELECT s.tenant_id, s.agent_id, c.from_at, c.until_at
          FROM changes c
          JOIN instance_spans s ON s.pool_id = c.pool_id AND s.started_at < c.until_at
                               AND coalesce(s.ended_at, 'infinity'::timestamptz) > c.from_at
         UNION ALL
        SELECT s.tenant_id, s.agent_id, c.from_at, c.until_at
          FROM changes c
          JOIN instance_spans s ON s.region = c.region AND s.instance_type = c.instance_type
                               AND s.started_at < c.until_at
                               AND coalesce(s.ended_at, 'infinity'::timestamptz) > c.from_at),
    windows AS (
        SELECT tenant_id, agent_id, min(from_at) AS from_at, max(until_at) AS until_at
          FROM touched GROUP BY tenant_id, agent_id),
    marked AS (
        UPDATE savings_agents a
           SET dirty_from = least(a.dirty_from, w.from_at),
               dirty_until = greatest(a.dirty_until,
                                      least(savings_bucket(w.until_at) + interval '5 minutes',
                                            a.closed_until))
          FROM windows w
         WHERE a.tenant_id = w.tenant_id AND a.agent_id = w.agent_id AND w.from_at < a.closed_until)
    SELECT count(*) FROM taken
"""

# Silence of more than 90 days stays a gap: it has to end long before its buckets are forgotten.
TAKE_HEARD_AGAIN: Final = """
    WITH heard AS (
        DELETE FROM savings_pauses p
         USING agent_sessions h
         WHERE h.tenant_id = p.tenant_id AND h.instance_id = p.instance_id
           AND h.last_heartbeat_at + interval '1 hour' > p.cut_at
        RETURNING p.tenant_id, p.agent_id, p.cut_at),
    firsts AS (
        SELECT tenant_id, agent_id, savings_bucket(min(cut_at)) AS from_at
          FROM heard
         WHERE cut_at > $1::timestamptz - interval '90 days'
         GROUP BY tenant_id, agent_id)
    UPDATE savings_agents a
       SET dirty_from = least(a.dirty_from, f.from_at), dirty_until = a.closed_until
      FROM firsts f
     WHERE a.tenant_id = f.tenant_id AND a.agent_id = f.agent_id AND f.from_at < a.closed_until
"""

# Two runs never work on the same agent.
CLAIM_AGENTS: Final = """
    SELECT a.tenant_id, a.agent_id, a.closed_until, a.dirty_from, a.dirty_until,
           savings_bucket(h.horizon) AS target
      FROM savings_horizons(NULL, $1) h
      JOIN savings_agents a ON a.tenant_id = h.tenant_id AND a.agent_id = h.agent_id
     WHERE a.dirty_from IS NOT NULL OR savings_bucket(h.horizon) > a.closed_until
     LIMIT $2
       FOR UPDATE OF a SKIP LOCKED
"""

# Buckets that come out as they are stay untouched; by what the others change, the sums do.
REPLACE_BUCKETS: Final = """
    WITH fresh AS MATERIALIZED (
        SELECT tenant_id, agent_id, bucket_at, instance_id,
               baseline_nanousd, actual_nanousd, replica_nanousd, overlap_nanousd
          FROM integrate_savings($1, $2, $3, $4)),
    stale AS MATERIALIZED (
        SELECT b.tenant_id, b.agent_id, b.bucket_at, b.instance_id,
               b.baseline_nanousd, b.actual_nanousd, b.replica_nanousd, b.overlap_nanousd
          FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[])
               AS w (tenant_id, agent_id, from_at, until_at)
          JOIN savings_buckets b ON b.tenant_id = w.tenant_id AND b.agent_id = w.agent_id
                                AND b.bucket_at >= w.from_at AND b.bucket_at < w.until_at
         WHERE b.bucket_at >= $5 AND b.bucket_at < $6),
    changes AS MATERIALIZED (
        SELECT tenant_id, agent_id, bucket_at, instance_id, f.baseline_nanousd IS NULL AS gone,
               coalesce(f.baseline_nanousd, 0) AS baseline,
               coalesce(f.actual_nanousd, 0) AS actual,
               coalesce(f.replica_nanousd, 0) AS replica,
               coalesce(f.overlap_nanousd, 0) AS overlap,
               coalesce(f.baseline_nanousd, 0) - coalesce(s.baseline_nanousd, 0) AS baseline_by,
               coalesce(f.actual_nanousd, 0) - coalesce(s.actual_nanousd, 0) AS actual_by,
               coalesce(f.replica_nanousd, 0) - coalesce(s.replica_nanousd, 0) AS replica_by,
               coalesce(f.overlap_nanousd, 0) - coalesce(s.overlap_nanousd, 0) AS overlap_by
          FROM fresh f
          FULL JOIN stale s USING (tenant_id, agent_id, bucket_at, instance_id)
         WHERE (f.baseline_nanousd, f.actual_nanousd, f.replica_nanousd, f.overlap_nanousd)
               IS DISTINCT FROM
               (s.baseline_nanousd, s.actual_nanousd, s.replica_nanousd, s.overlap_nanousd)),
    dropped AS (
        DELETE FROM savings_buckets b
         USING changes c
         WHERE c.gone AND b.tenant_id = c.tenant_id AND b.agent_id = c.agent_id
           AND b.bucket_at = c.bucket_at AND b.instance_id = c.instance_id),
    put AS (
        INSERT INTO savings_buckets (tenant_id, bucket_at, agent_id, instance_id,
                                     baseline_nanousd, actual_nanousd, replica_nanousd,
                                     overlap_nanousd)
        SELECT tenant_id, bucket_at, agent_id, instance_id, baseline, actual, replica, overlap
          FROM changes
         WHERE NOT gone
        ON CONFLICT (tenant_id, agent_id, bucket_at, instance_id) DO UPDATE
           SET baseline_nanousd = excluded.baseline_nanousd,
               actual_nanousd = excluded.actual_nanousd,
               replica_nanousd = excluded.replica_nanousd,
               overlap_nanousd = excluded.overlap_nanousd),
    days AS (
        INSERT INTO savings_days AS d (tenant_id, day_at, agent_id, instance_id, baseline_nanousd,
                                       actual_nanousd, replica_nanousd, overlap_nanousd)
        SELECT tenant_id, date_trunc('day', bucket_at, 'UTC'), agent_id, instance_id,
               sum(baseline_by), sum(actual_by), sum(replica_by), sum(overlap_by)
          FROM changes
         GROUP BY 1, 2, 3, 4
        ON CONFLICT (tenant_id, day_at, agent_id, instance_id) DO UPDATE
           SET baseline_nanousd = d.baseline_nanousd + excluded.baseline_nanousd,
               actual_nanousd = d.actual_nanousd + excluded.actual_nanousd,
               replica_nanousd = d.replica_nanousd + excluded.replica_nanousd,
               overlap_nanousd = d.overlap_nanousd + excluded.overlap_nanousd),
    months AS (
        INSERT INTO savings_months AS m (tenant_id, month_at, agent_id, instance_id,
                                         baseline_nanousd, actual_nanousd, replica_nanousd,
                                         overlap_nanousd)
        SELECT tenant_id, date_trunc('month', bucket_at, 'UTC'), agent_id, instance_id,
               sum(baseline_by), sum(actual_by), sum(replica_by), sum(overlap_by)
          FROM changes
         GROUP BY 1, 2, 3, 4
        ON CONFLICT (tenant_id, month_at, agent_id, instance_id) DO UPDATE
           SET baseline_nanousd = m.baseline_nanousd + excluded.baseline_nanousd,
               actual_nanousd = m.actual_nanousd + excluded.actual_nanousd,
               replica_nanousd = m.replica_nanousd + excluded.replica_nanousd,
               overlap_nanousd = m.overlap_nanousd + excluded.overlap_nanousd)
    SELECT count(*) FROM changes
"""

# A primary's time that its own silence cut short within these windows.
NOTE_PAUSES: Final = """
    INSERT INTO savings_pauses AS p (tenant_id, instance_id, agent_id, cut_at)
    SELECT c.tenant_id, c.instance_id, c.agent_id, min(c.cut_at)
      FROM (SELECT s.tenant_id, s.instance_id, s.agent_id,
                   least(s.ended_at, w.until_at) AS until_at,
                   greatest(h.last_heartbeat_at, s.started_at) + interval '1 hour' AS cut_at
              FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[])
                   AS w (tenant_id, agent_id, from_at, until_at)
              JOIN instance_spans s ON s.tenant_id = w.tenant_id AND s.agent_id = w.agent_id
                               AND coalesce(s.ended_at, 'infinity'::timestamptz) > w.from_at
                               AND s.started_at < w.until_at
              LEFT JOIN agent_sessions h ON h.tenant_id = s.tenant_id
                                        AND h.instance_id = s.instance_id
             WHERE s.status = 'running_primary') c
     WHERE c.cut_at < c.until_at
     GROUP BY c.tenant_id, c.instance_id, c.agent_id
    ON CONFLICT (tenant_id, instance_id, agent_id) DO UPDATE
       SET cut_at = least(p.cut_at, excluded.cut_at)
"""

SAVE_PROGRESS: Final = """
    UPDATE savings_agents a
       SET closed_until = p.closed_until, dirty_from = p.dirty_from, dirty_until = p.dirty_until
      FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
           AS p (tenant_id, agent_id, closed_until, dirty_from, dirty_until)
     WHERE a.tenant_id = p.tenant_id AND a.agent_id = p.agent_id
"""


async def take_changes(conn: Conn, *, now: datetime, limit: int) -> bool:
    """Mark as out of date what has changed since; False when there may be more to take.

    Args:
        conn: In a transaction.
        now: When.
        limit: Changes of a kind to take at most.
    """
    spans: int = await conn.fetchval(TAKE_SPAN_CHANGES, limit)
    prices: int = await conn.fetchval(TAKE_PRICE_CHANGES, limit)
    await conn.execute(TAKE_HEARD_AGAIN, now)
    return spans < limit and prices < limit


async def claim(conn: Conn, *, now: datetime, limit: int) -> list[Progress]:
    """Hold up to ``limit`` agents that have buckets to make; empty when none has."""
    rows = await conn.fetch(CLAIM_AGENTS, now, limit)
    return [Progress(**row) for row in rows]


async def replace(conn: Conn, steps: Sequence[Step]) -> int:
    """Make buckets, and say how far their agents are then; how many buckets have changed.

    Call it in the transaction that holds the agents.
    """
    agents = [step.progress for step in steps]
    tenant_ids, agent_ids = [a.tenant_id for a in agents], [a.agent_id for a in agents]
    starts, ends = [step.start for step in steps], [step.end for step in steps]
    changed: int = await conn.fetchval(
        REPLACE_BUCKETS, tenant_ids, agent_ids, starts, ends, min(starts), max(ends)
    )
    await conn.execute(NOTE_PAUSES, tenant_ids, agent_ids, starts, ends)
    await conn.execute(
        SAVE_PROGRESS,
        tenant_ids,
        agent_ids,
        [a.closed_until for a in agents],
        [a.dirty_from for a in agents],
        [a.dirty_until for a in agents],
    )
    return changed
