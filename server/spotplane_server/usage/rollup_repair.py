"""Verifies rollups against the raw records and rebuilds those that differ.

Ingest writes records and rollups in one transaction, so they agree in every snapshot, or there is a
defect. A rebuild works in one snapshot and replaces only rows that differ: if ingest changes one of
them meanwhile, PostgreSQL aborts the rebuild with a serialization failure, and it is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage import revisions
from spotplane_server.usage.time_windows import MINUTE_RETENTION, Window, floor_day

# $2 and $3 a window of whole days; $4 the first day whose minutes are retained. All columns are
# compared, therefore none is named; `EXCEPT` treats two nulls as equal.
COUNT_WRONG_ROLLUPS: Final = """
    WITH expected AS (SELECT * FROM usage_rollups_from_records($1, $2, $3)),
         stored AS (SELECT * FROM usage_rollups_stored($1, $2, $3))
    SELECT count(*) FILTER (WHERE w.rollup LIKE 'hour%') AS hours,
           count(*) FILTER (WHERE w.rollup LIKE 'day%') AS days,
           count(*) FILTER (WHERE w.rollup LIKE 'minute%' AND w.starts_at >= $4) AS minutes
      FROM (SELECT DISTINCT d.rollup, d.starts_at, d.environment_id, d.model_id, d.api_key_id,
                   d.region_id
              FROM ((SELECT * FROM expected EXCEPT SELECT * FROM stored)
                    UNION ALL
                    (SELECT * FROM stored EXCEPT SELECT * FROM expected)) AS d) AS w
"""

COUNT_WRONG_PEAKS: Final = """
    WITH expected AS (SELECT * FROM usage_peaks_by_records($1, $2, $3)),
         stored AS (SELECT * FROM usage_peaks_stored($1, $2, $3))
    SELECT count(DISTINCT w.hour)
      FROM ((SELECT * FROM expected EXCEPT SELECT * FROM stored)
            UNION ALL
            (SELECT * FROM stored EXCEPT SELECT * FROM expected)) AS w
"""

DELETE_WRONG_ROLLUPS: Final = """
    DELETE FROM usage_rollups u
     USING (SELECT * FROM usage_rollups_stored($1, $2, $3)
            EXCEPT
            SELECT * FROM usage_rollups_from_records($1, $2, $3)) AS w
     WHERE u.tenant_id = $1 AND u.rollup = w.rollup AND u.starts_at = w.starts_at
       AND u.environment_id IS NOT DISTINCT FROM w.environment_id
       AND u.model_id IS NOT DISTINCT FROM w.model_id
       AND u.api_key_id IS NOT DISTINCT FROM w.api_key_id
       AND u.region_id IS NOT DISTINCT FROM w.region_id
       AND (u.rollup NOT LIKE 'minute%' OR u.starts_at >= $4)
    RETURNING u.starts_at
"""

DELETE_WRONG_PEAKS: Final = """
    DELETE FROM usage_rollup_peaks p
     USING (SELECT * FROM usage_peaks_stored($1, $2, $3)
            EXCEPT
            SELECT * FROM usage_peaks_by_records($1, $2, $3)) AS w
     WHERE p.tenant_id = $1 AND p.hour = w.hour
    RETURNING p.hour
"""

# Rows that ingest added since the snapshot end these with a serialization failure.
INSERT_MISSING_ROLLUPS: Final = """
    INSERT INTO usage_rollups
    SELECT * FROM usage_rollups_from_records($1, $2, $3)
     WHERE rollup NOT LIKE 'minute%' OR starts_at >= $4
    EXCEPT
    SELECT * FROM usage_rollups_stored($1, $2, $3)
    ON CONFLICT ON CONSTRAINT usage_rollups_key DO NOTHING
    RETURNING starts_at
"""

INSERT_MISSING_PEAKS: Final = """
    INSERT INTO usage_rollup_peaks
    SELECT * FROM usage_peaks_by_records($1, $2, $3)
    EXCEPT
    SELECT * FROM usage_peaks_stored($1, $2, $3)
    ON CONFLICT ON CONSTRAINT usage_rollup_peaks_pkey DO NOTHING
    RETURNING hour
"""


@dataclass(frozen=True, slots=True)
class WrongRollups:
    """How many rows are missing, wrong, or without any record, by unit of time.

    Busiest minutes count as minutes.
    """

    hours: int = 0
    days: int = 0
    minutes: int = 0

    def __add__(self, other: WrongRollups) -> WrongRollups:
        return WrongRollups(
            self.hours + other.hours, self.days + other.days, self.minutes + other.minutes
        )


async def count_wrong(
    conn: Conn, tenant_id: TenantId, window: Window, now: datetime
) -> WrongRollups:
    """Compare the rollups of whole days with the raw records; in a repeatable-read transaction."""
    first = _first_minute(window, now)
    (wrong,) = await conn.fetch(COUNT_WRONG_ROLLUPS, tenant_id, window.start, window.end, first)
    peaks = await conn.fetchval(COUNT_WRONG_PEAKS, tenant_id, first, window.end)
    return WrongRollups(wrong["hours"], wrong["days"], wrong["minutes"] + peaks)


async def rebuild(conn: Conn, tenant_id: TenantId, window: Window, now: datetime) -> int:
    """Replace the wrong rollups of whole days, in a repeatable-read transaction.

    Returns:
        How many rows were deleted and written.

    Raises:
        asyncpg.SerializationError: Ingest changed one of them; repeat.
    """
    first = _first_minute(window, now)
    rollups = (tenant_id, window.start, window.end, first)
    peaks = (tenant_id, first, window.end)
    changed = 0
    for statement, arguments in (
        (DELETE_WRONG_ROLLUPS, rollups),
        (INSERT_MISSING_ROLLUPS, rollups),
        (DELETE_WRONG_PEAKS, peaks),
        (INSERT_MISSING_PEAKS, peaks),
    ):
        changed += len(await conn.fetch(statement, *arguments))
    if changed:
        await revisions.increment_after_rebuild(conn, tenant_id)
    return changed


def _first_minute(window: Window, now: datetime) -> datetime:
    """Return the start of the part of a window for which minutes are retained; it may be empty."""
    return max(window.start, floor_day(now - MINUTE_RETENTION))
