"""Background jobs: idempotent, run by timer and by notification, on any server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

import asyncpg
import structlog

from spotplane_server.kernel import metrics
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import database
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.jobs import leases

log = structlog.get_logger(__name__)

# A process that dies holds a job up for at most this, or two periods. A run that takes longer may
# meet another one, which jobs have to bear anyway.
LEASE_TTL: Final = timedelta(seconds=10)
# Signals that come together are one run.
COALESCE_SECONDS: Final = 0.02
# Jobs do not all begin at once with the process, which has enough to do then: unless signalled,
# they follow one another, those that run seldom within half a minute.
STEP: Final = timedelta(milliseconds=50)
SELDOM: Final = timedelta(minutes=1)
SPREAD: Final = timedelta(seconds=30)


class Job(Protocol):
    """Work that takes nothing but the time and is safe to run twice."""

    name: str
    period: timedelta
    # Whether one process at a time suffices; such a job runs under a lease.
    singleton: bool

    async def run_once(self, now: datetime) -> int:
        """Do what there is to do; answer how much that was."""
        ...


class JobRunner:
    """Runs jobs by their period and when signalled; a signal is a hint and carries nothing."""

    def __init__(self, db: Database, clock: Clock, holder: str, jobs: Sequence[Job]) -> None:
        self._db = db
        self._clock = clock
        self._holder = holder
        self._jobs = {job.name: job for job in jobs}
        self._signals = {job.name: asyncio.Event() for job in jobs}
        self.is_running = False

    def signal(self, name: str) -> None:
        """Run a job soon."""
        self._signals[name].set()

    async def run(self) -> None:
        """Run all jobs until cancelled, then let their leases go."""
        self.is_running = True
        try:
            async with asyncio.TaskGroup() as group:
                for job, delay in _staggered(list(self._jobs.values())):
                    group.create_task(self._loop(job, delay), name=f"job:{job.name}")
        finally:
            self.is_running = False
            await asyncio.shield(self._release())

    async def _loop(self, job: Job, delay: timedelta) -> None:
        signal = self._signals[job.name]
        await _signalled(signal, delay)
        while True:
            signal.clear()
            await self._run(job)
            if await _signalled(signal, job.period):
                await asyncio.sleep(COALESCE_SECONDS)

    async def _run(self, job: Job) -> None:
        started = time.perf_counter()
        try:
            if job.singleton and not await self._lead(job):
                return
            done = await job.run_once(self._clock.now())
        except (DomainError, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
            # The next run is the retry.
            metrics.JOB_RUNS.labels(job.name, "failed").inc()
            log.warning("job_failed", job=job.name, exc_info=True)
        except Exception:  # a defect in one job must not stop the others
            metrics.JOB_RUNS.labels(job.name, "defect").inc()
            log.exception("job_defect", job=job.name)
        else:
            metrics.JOB_RUNS.labels(job.name, "done").inc()
            if done:
                log.info("job_done", job=job.name, count=done)
        metrics.JOB_SECONDS.labels(job.name).observe(time.perf_counter() - started)

    async def _lead(self, job: Job) -> bool:
        ttl = max(LEASE_TTL, 2 * job.period)
        async with self._db.connection(ALL_TENANTS) as conn:
            token = await leases.acquire(
                conn, f"job:{job.name}", self._holder, now=self._clock.now(), ttl=ttl
            )
        return token is not None

    async def _release(self) -> None:
        try:
            async with self._db.connection(ALL_TENANTS) as conn:
                await leases.release_all(conn, self._holder, now=self._clock.now())
        except (DomainError, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
            log.warning("leases_not_released", exc_info=True)


def _staggered(jobs: Sequence[Job]) -> Iterator[tuple[Job, timedelta]]:
    """Each job and when it begins."""
    seldom = [job for job in jobs if job.period >= SELDOM]
    often = [job for job in jobs if job.period < SELDOM]
    for number, job in enumerate(often):
        yield job, STEP * number
    for number, job in enumerate(seldom, 1):
        yield job, SPREAD * number / len(seldom)


async def _signalled(signal: asyncio.Event, within: timedelta) -> bool:
    try:
        async with asyncio.timeout(within.total_seconds()):
            await signal.wait()
    except TimeoutError:
        return False
    return True
