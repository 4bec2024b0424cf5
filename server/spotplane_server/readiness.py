"""Readiness: reported by `grpc.health.v1.Health` and by metrics."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from uuid import uuid4

import structlog
from grpc_health.v1 import health_pb2

from spotplane_server.decisions import module as decisions
from spotplane_server.events import store as events_store
from spotplane_server.kernel import metrics
from spotplane_server.kernel.auth import policy
from spotplane_server.kernel.clock import DatabaseClock
from spotplane_server.kernel.db import migrate, partitions
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.jobs.runner import JobRunner
from spotplane_server.kernel.module import AppContext
from spotplane_server.kernel.ratelimit import redis_client
from spotplane_server.usage.health import rollups_work

log = structlog.get_logger(__name__)

DECISIONS: Final = "spotplane.v1.DecisionService"
SECONDS: Final = 2.0
# Longest wait for all checks of the database together.
CHECK_SECONDS: Final = 2.0


def service_names() -> list[str]:
    """All services of this process."""
    ours = {method.split("/")[1] for method in policy.METHODS}
    return sorted(ours | {health_pb2.DESCRIPTOR.services_by_name["Health"].full_name})


async def report(kernel: AppContext, runner: JobRunner, healthy: Any) -> None:
    """Say every few seconds what works: each check by its name, and all together as ``""``.

    A service works when all do; the decisions do not while the built-in rules stand in for the
    engine that should make them.
    """
    while True:
        checks = {**await _checks(kernel), "jobs": runner.is_running}
        checks["trusted-proxies"] = kernel.proxies.unconfigured is None
        metrics.DEPENDENCY_UP.labels("postgresql").set(checks["database"])
        if kernel.redis is not None:
            metrics.DEPENDENCY_UP.labels("redis").set(await redis_client.answers(kernel.redis))
        if kernel.replica is not None:
            metrics.DEPENDENCY_UP.labels("read_replica").set(await kernel.replica.answers())
        for state, count in kernel.db.stats().items():
            metrics.POOL.labels(state).set(count)
        works_all = all(checks.values())
        services = dict.fromkeys(service_names(), works_all)
        services[DECISIONS] = works_all and await _engine_works(kernel)
        for name, works in {**services, **checks, "": works_all}.items():
            await healthy.set(name, _status(works))
        await _report_warnings(kernel, healthy)
        await asyncio.sleep(SECONDS)


async def _engine_works(kernel: AppContext) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await decisions.engine_works(kernel.db)
    except TimeoutError:
        return False


async def _report_warnings(kernel: AppContext, healthy: Any) -> None:
    """Publish what impairs a server without keeping it from its work."""
    confined = await decisions.uploads_confined()
    metrics.DEPENDENCY_UP.labels("sandbox").set(confined)
    await healthy.set("sandbox", _status(confined))
    if isinstance(kernel.clock, DatabaseClock):
        await healthy.set("clock", _status(kernel.clock.is_machine_right))


async def _checks(kernel: AppContext) -> dict[str, bool]:
    checks = {"database": False, "migrations": False, "partitions": False, "rollups": False}
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            async with kernel.db.connection(ALL_TENANTS) as conn:
                checks["migrations"] = await migrate.current(conn)
                # The connection alone may be an idle one that is dead.
                checks["database"] = True
                metrics.EVENTS_HELD.set((await events_store.held_for(conn)).total_seconds())
            now = kernel.clock.now()
            checks["partitions"] = await partitions.ready(kernel.db, now)
            # Another tenant each time.
            checks["rollups"] = await rollups_work(kernel.db, uuid4(), now)
    except Exception:  # whatever is wrong, what is left says no
        log.warning("not_ready", exc_info=True)
    return checks


def _status(works: bool) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
    statuses = health_pb2.HealthCheckResponse.ServingStatus
    return statuses.SERVING if works else statuses.NOT_SERVING
