"""Daily jobs: due from a fixed hour until they are done for that day.

A process that was down at the hour does it when it is back. Whoever dies in the middle has not done
it, so the work must be safe to do again.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Final

from spotplane_server.kernel.db.database import Conn

FIND_DAY: Final = "SELECT day FROM daily_jobs WHERE name = $1"

PUT_DAY: Final = """
    INSERT INTO daily_jobs AS j (name, day)
    VALUES ($1, $2)
    ON CONFLICT (name) DO UPDATE
       SET day = greatest(j.day, excluded.day)
"""


async def due(conn: Conn, name: str, at: time, now: datetime) -> date | None:
    """The day, UTC, for which the work is due now; None when its hour is to come or it was done."""
    today = now.astimezone(UTC)
    if today.time() < at:
        return None
    done: date | None = await conn.fetchval(FIND_DAY, name)
    return today.date() if done is None or done < today.date() else None


async def mark_done(conn: Conn, name: str, day: date) -> None:
    """Remember that the work of a day was done."""
    await conn.execute(PUT_DAY, name, day)
