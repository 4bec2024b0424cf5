"""Reliability of pools: a score and a class for each, every quarter of an hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.prices import job_runs, risk, volatility
from spotplane_server.prices.job_runs import Counts
from spotplane_server.prices.risk import Risk

Class: TypeAlias = Literal["safe", "caution", "avoid"]

PERIOD: Final = timedelta(minutes=15)
SAFE: Final = 70.0
CAUTION: Final = 40.0
# Pools a statement; each costs a few index probes.
BATCH: Final = 500
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

LIST_POOL_IDS: Final = "SELECT id FROM pools WHERE id > $1 ORDER BY id LIMIT $2"

# Once a quarter of an hour, whoever computes it.
INSERT_SCORES: Final = """
    INSERT INTO pool_scores (pool_id, computed_at, score, class, risk, volatility,
                             interruptions_30d)
    SELECT s.pool_id, $1, s.score, s.class, s.risk, s.volatility, s.interruptions
      FROM unnest($2::text[], $3::real[], $4::text[], $5::real[], $6::real[], $7::int[])
           AS s (pool_id, score, class, risk, volatility, interruptions)
     ORDER BY 1
    ON CONFLICT (pool_id, computed_at) DO NOTHING
"""

LIST_NEWEST_SCORES: Final = """
    SELECT s.pool_id, s.score, s.class AS class_
      FROM unnest($1::text[]) AS p (pool_id)
     CROSS JOIN LATERAL
           (SELECT pool_id, score, class
              FROM pool_scores
             WHERE pool_id = p.pool_id
             ORDER BY computed_at DESC
             LIMIT 1) AS s
"""


@dataclass(frozen=True, slots=True)
class Score:
    """How reliable a pool is: 0 to 100, and what that is called."""

    pool_id: str
    score: float
    class_: Class


def score(pool_risk: float, spread: float | None) -> float:
    """``100 x (1 - min(1, 0.7 x risk + 0.3 x min(1, spread)))``; an unknown spread counts as 0."""
    return 100.0 * (1.0 - min(1.0, 0.7 * pool_risk + 0.3 * min(1.0, spread or 0.0)))


def class_of(points: float) -> Class:
    """What a score is called."""
    if points >= SAFE:
        return "safe"
    return "caution" if points >= CAUTION else "avoid"


class PoolRiskJob:
    """Scores every pool; answers how many."""

    name = "pool-risk"
    period = PERIOD
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Score all pools as of now, once a quarter of an hour."""
        async with job_runs.noting_failure(self._db, self.name, now):
            total, last = 0, ""
            while True:
                async with self._db.transaction(ALL_TENANTS) as conn:
                    ids = [row["id"] for row in await conn.fetch(LIST_POOL_IDS, last, BATCH)]
                    if not ids:
                        return total
                    risks = await risk.assess(conn, ids, now=now)
                    spreads = await volatility.list_spreads(conn, ids, now=now)
                    status = await conn.execute(
                        INSERT_SCORES,
                        now - (now - _EPOCH) % PERIOD,
                        ids,
                        *_columns(ids, risks, {name: spreads[name].day for name in ids}),
                    )
                    scored = int(status.rpartition(" ")[2])
                    await job_runs.record(conn, self.name, Counts(scored), started_at=now)
                total, last = total + scored, ids[-1]


def _columns(
    ids: list[str], risks: dict[str, Risk], spreads: dict[str, float | None]
) -> tuple[list[float], list[str], list[float], list[float | None], list[int]]:
    points = [score(risks[name].value, spreads[name]) for name in ids]
    return (
        points,
        [class_of(one) for one in points],
        [risks[name].value for name in ids],
        [spreads[name] for name in ids],
        [risks[name].interruptions for name in ids],
    )
