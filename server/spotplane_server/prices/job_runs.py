"""What each run of a job over prices did, for operators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4, uuid5

import asyncpg

from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database

# Runs that begin within the same half minute are one row: a busy fleet makes one a second.
SLOT: Final = timedelta(seconds=30)
LIMIT: Final = 500
_NAMES: Final = UUID("6f1d5a52-6c0c-4f0e-9d55-0c6d2f9f1b5e")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

ADD_RUN: Final = """
    INSERT INTO pipeline_runs AS r (id, job, status, started_at, completed_at, records_processed,
                                    duplicates_removed, gaps_interpolated, backfills_added)
    VALUES ($1, $2, 'completed', $3, $3::timestamptz + (clock_timestamp() - now()), $4, $5, $6, $7)
    ON CONFLICT (id) DO UPDATE
       SET completed_at = excluded.completed_at,
           records_processed = r.records_processed + excluded.records_processed,
           duplicates_removed = r.duplicates_removed + excluded.duplicates_removed,
           gaps_interpolated = r.gaps_interpolated + excluded.gaps_interpolated,
           backfills_added = r.backfills_added + excluded.backfills_added
"""

INSERT_FAILURE: Final = """
    INSERT INTO pipeline_runs (id, job, status, started_at, completed_at, error)
    VALUES ($1, $2, 'failed', $3, $3, $4)
"""

LIST_RUNS: Final = """
    SELECT id, job, status, started_at, completed_at, records_processed, duplicates_removed,
           gaps_interpolated, backfills_added, error
      FROM pipeline_runs
     WHERE started_at >= $1
     ORDER BY started_at DESC, id
     LIMIT $2
"""

COUNT_RUNS: Final = "SELECT count(*) FROM pipeline_runs WHERE started_at >= $1"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run did."""

    processed: int = 0
    duplicates: int = 0
    gaps: int = 0
    backfills: int = 0

    def __bool__(self) -> bool:
        """Whether it did anything."""
        return any((self.processed, self.duplicates, self.gaps, self.backfills))

    def __add__(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.processed + other.processed,
            self.duplicates + other.duplicates,
            self.gaps + other.gaps,
            self.backfills + other.backfills,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A row for operators."""

    id: UUID
    job: str
    status: str
    started_at: datetime
    completed_at: datetime | None
    records_processed: int
    duplicates_removed: int
    gaps_interpolated: int
    backfills_added: int
    error: str | None


async def record(conn: Conn, job: str, counts: Counts, *, started_at: datetime) -> None:
    """Note what a run did, in the transaction that did it; nothing done leaves nothing."""
    if not counts:
        return
    slot = int((started_at - _EPOCH) / SLOT)
    await conn.execute(
        ADD_RUN,
        uuid5(_NAMES, f"{job}:{slot}"),
        job,
        started_at,
        counts.processed,
        counts.duplicates,
        counts.gaps,
        counts.backfills,
    )


@asynccontextmanager
async def noting_failure(db: Database, job: str, now: datetime) -> AsyncIterator[None]:
    """Note that the block failed and why, by kind: details are in the log. The error goes on."""
    try:
        yield
    except asyncpg.PostgresError as err:
        async with db.connection(ALL_TENANTS) as conn:
            await conn.execute(INSERT_FAILURE, uuid4(), job, now, type(err).__name__)
        raise


async def list_runs(conn: Conn, since: datetime) -> list[Run]:
    """Runs since an instant, newest first, at most 500."""
    return [Run(**row) for row in await conn.fetch(LIST_RUNS, since, LIMIT)]


async def count_runs(conn: Conn, since: datetime) -> int:
    """How many runs there were since an instant."""
    count: int = await conn.fetchval(COUNT_RUNS, since)
    return count
