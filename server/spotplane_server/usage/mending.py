"""Proving that sums are what the raw records say, and mending those that are not.

Ingest writes records and sums in one transaction, so in every snapshot they agree, or something is
wrong. Mending works in one snapshot and replaces only what differs: when ingest changes one of
those sums meanwhile, PostgreSQL ends the mending, which is then done again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.usage import versions
from spotplane_server.usage.windows import MINUTE_RETENTION, Window, floor_day

# All columns are compared, which is why none is named. `EXCEPT` takes two nulls for equal.
COUNT_WRONG_HOURS: Final = """
    WITH said AS (SELECT * FROM usage_hours_by_records($1, $2, $3)),
         kept AS (SELECT * FROM usage_hours_kept($1, $2, $3))
    SELECT count(DISTINCT (w.hour, w.environment_id, w.model_id, w.api_key_id, w.region_id))
      FROM ((SELECT * FROM said EXCEPT SELECT * FROM kept)
            UNION ALL
            (SELECT * FROM kept EXCEPT SELECT * FROM said)) AS w
"""

COUNT_WRONG_DAYS: Final = """
    WITH said AS (SELECT * FROM usage_days_by_records($1, $2, $3)),
         kept AS (SELECT * FROM usage_days_kept($1, $2, $3))
    SELECT count(DISTINCT (w.day, w.model_id))
      FROM ((SELECT * FROM said EXCEPT SELECT * FROM kept)
            UNION ALL
            (SELECT * FROM kept EXCEPT SELECT * FROM said)) AS w
"""

COUNT_WRONG_MINUTES: Final = """
    WITH said AS (SELECT * FROM usage_models_by_records($1, 'minute', $2, $3)),
         kept AS (SELECT * FROM usage_minutes_kept($1, $2, $3))
    SELECT count(DISTINCT (w.minute, w.model_id))
      FROM ((SELECT * FROM said EXCEPT SELECT * FROM kept)
            UNION ALL
            (SELECT * FROM kept EXCEPT SELECT * FROM said)) AS w
"""

# Cuts of hours and cuts of days.
COUNT_WRONG_CUTS: Final = """
    WITH said AS (SELECT * FROM usage_cuts_by_records($1, $2, $3)),
         kept AS (SELECT * FROM usage_cuts_kept($1, $2, $3))
    SELECT count(DISTINCT (w.cut, w.starts_at, w.group_id, w.other_id))
               FILTER (WHERE w.cut LIKE 'hour%') AS hours,
           count(DISTINCT (w.cut, w.starts_at, w.group_id, w.other_id))
               FILTER (WHERE w.cut LIKE 'day%') AS days
      FROM ((SELECT * FROM said EXCEPT SELECT * FROM kept)
            UNION ALL
            (SELECT * FROM kept EXCEPT SELECT * FROM said)) AS w
"""

COUNT_WRONG_PEAKS: Final = """
    WITH said AS (SELECT * FROM usage_peaks_by_records($1, $2, $3)),
         kept AS (SELECT * FROM usage_peaks_kept($1, $2, $3))
    SELECT count(DISTINCT w.hour)
      FROM ((SELECT * FROM said EXCEPT SELECT * FROM kept)
            UNION ALL
            (SELECT * FROM kept EXCEPT SELECT * FROM said)) AS w
"""

DELETE_WRONG_HOURS: Final = """
    DELETE FROM usage_rollup_hourly h
     USING (SELECT * FROM usage_hours_kept($1, $2, $3)
            EXCEPT
            SELECT * FROM usage_hours_by_records($1, $2, $3)) AS w
     WHERE h.tenant_id = $1 AND h.hour = w.hour
       AND h.environment_id IS NOT DISTINCT FROM w.environment_id
       AND h.model_id IS NOT DISTINCT FROM w.model_id
       AND h.api_key_id IS NOT DISTINCT FROM w.api_key_id
       AND h.region_id IS NOT DISTINCT FROM w.region_id
    RETURNING h.hour
"""

DELETE_WRONG_DAYS: Final = """
    DELETE FROM usage_rollup_daily d
     USING (SELECT * FROM usage_days_kept($1, $2, $3)
            EXCEPT
            SELECT * FROM usage_days_by_records($1, $2, $3)) AS w
     WHERE d.tenant_id = $1 AND d.day = w.day AND d.model_id IS NOT DISTINCT FROM w.model_id
    RETURNING d.day
"""

DELETE_WRONG_MINUTES: Final = """
    DELETE FROM usage_rollup_minute m
     USING (SELECT * FROM usage_minutes_kept($1, $2, $3)
            EXCEPT
            SELECT * FROM usage_models_by_records($1, 'minute', $2, $3)) AS w
     WHERE m.tenant_id = $1 AND m.minute = w.minute AND m.model_id IS NOT DISTINCT FROM w.model_id
    RETURNING m.minute
"""

DELETE_WRONG_CUTS: Final = """
    DELETE FROM usage_rollup_cuts c
     USING (SELECT * FROM usage_cuts_kept($1, $2, $3)
            EXCEPT
            SELECT * FROM usage_cuts_by_records($1, $2, $3)) AS w
     WHERE c.tenant_id = $1 AND c.cut = w.cut AND c.starts_at = w.starts_at
       AND c.group_id IS NOT DISTINCT FROM w.group_id
       AND c.other_id IS NOT DISTINCT FROM w.other_id
    RETURNING c.starts_at
"""

DELETE_WRONG_PEAKS: Final = """
    DELETE FROM usage_rollup_peaks p
     USING (SELECT * FROM usage_peaks_kept($1, $2, $3)
            EXCEPT
            SELECT * FROM usage_peaks_by_records($1, $2, $3)) AS w
     WHERE p.tenant_id = $1 AND p.hour = w.hour
    RETURNING p.hour
"""

# What ingest added since the snapshot makes these end with a serialization failure, not do nothing.
INSERT_MISSING_HOURS: Final = """
    INSERT INTO usage_rollup_hourly
    SELECT * FROM usage_hours_by_records($1, $2, $3)
    EXCEPT
    SELECT * FROM usage_hours_kept($1, $2, $3)
    ON CONFLICT ON CONSTRAINT usage_rollup_hourly_key DO NOTHING
    RETURNING hour
"""

INSERT_MISSING_DAYS: Final = """
    INSERT INTO usage_rollup_daily
    SELECT * FROM usage_days_by_records($1, $2, $3)
    EXCEPT
    SELECT * FROM usage_days_kept($1, $2, $3)
    ON CONFLICT ON CONSTRAINT usage_rollup_daily_key DO NOTHING
    RETURNING day
"""

INSERT_MISSING_MINUTES: Final = """
    INSERT INTO usage_rollup_minute
    SELECT * FROM usage_models_by_records($1, 'minute', $2, $3)
    EXCEPT
    SELECT * FROM usage_minutes_kept($1, $2, $3)
    ON CONFLICT ON CONSTRAINT usage_rollup_minute_key DO NOTHING
    RETURNING minute
"""

INSERT_MISSING_CUTS: Final = """
    INSERT INTO usage_rollup_cuts
    SELECT * FROM usage_cuts_by_records($1, $2, $3)
    EXCEPT
    SELECT * FROM usage_cuts_kept($1, $2, $3)
    ON CONFLICT ON CONSTRAINT usage_rollup_cuts_key DO NOTHING
    RETURNING starts_at
"""

INSERT_MISSING_PEAKS: Final = """
    INSERT INTO usage_rollup_peaks
    SELECT * FROM usage_peaks_by_records($1, $2, $3)
    EXCEPT
    SELECT * FROM usage_peaks_kept($1, $2, $3)
    ON CONFLICT ON CONSTRAINT usage_rollup_peaks_pkey DO NOTHING
    RETURNING hour
"""


@dataclass(frozen=True, slots=True)
class Wrong:
    """How many sums are missing, wrong, or without any record.

    Cuts count among their hours or days, busiest minutes among the minutes.
    """

    hours: int = 0
    days: int = 0
    minutes: int = 0

    def __add__(self, other: Wrong) -> Wrong:
        return Wrong(self.hours + other.hours, self.days + other.days, self.minutes + other.minutes)


async def count_wrong(conn: Conn, tenant_id: TenantId, window: Window, now: datetime) -> Wrong:
    """Compare the sums of whole days with the raw records; in a repeatable-read transaction."""
    span = (tenant_id, window.start, window.end)
    late = _with_minutes(tenant_id, window, now)
    (cuts,) = await conn.fetch(COUNT_WRONG_CUTS, *span)
    return Wrong(
        cuts["hours"] + await conn.fetchval(COUNT_WRONG_HOURS, *span),
        cuts["days"] + await conn.fetchval(COUNT_WRONG_DAYS, *span),
        await conn.fetchval(COUNT_WRONG_MINUTES, *late)
        + await conn.fetchval(COUNT_WRONG_PEAKS, *late),
    )


async def mend(conn: Conn, tenant_id: TenantId, window: Window, now: datetime) -> int:
    """Replace the wrong sums of whole days, in a repeatable-read transaction.

    Returns:
        How many rows were deleted and written.

    Raises:
        asyncpg.SerializationError: Ingest got in between; do it again.
    """
    span, late = (tenant_id, window.start, window.end), _with_minutes(tenant_id, window, now)
    done = 0
    for delete, insert, arguments in (
        (DELETE_WRONG_HOURS, INSERT_MISSING_HOURS, span),
        (DELETE_WRONG_DAYS, INSERT_MISSING_DAYS, span),
        (DELETE_WRONG_CUTS, INSERT_MISSING_CUTS, span),
        (DELETE_WRONG_MINUTES, INSERT_MISSING_MINUTES, late),
        (DELETE_WRONG_PEAKS, INSERT_MISSING_PEAKS, late),
    ):
        done += len(await conn.fetch(delete, *arguments))
        done += len(await conn.fetch(insert, *arguments))
    if done:
        await versions.raise_by_mending(conn, tenant_id)
    return done


def _with_minutes(
    tenant_id: TenantId, window: Window, now: datetime
) -> tuple[TenantId, datetime, datetime]:
    """The part of a window for which minutes are kept; it may be empty."""
    return tenant_id, max(window.start, floor_day(now - MINUTE_RETENTION)), window.end
