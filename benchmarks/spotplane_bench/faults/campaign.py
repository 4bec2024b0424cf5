"""Runs a campaign of faults and reports what it did and found."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import asyncpg
import grpc.aio
from spotplane.v1 import agent_pb2, agent_pb2_grpc

from spotplane_bench import stack
from spotplane_bench.faults import checks, schedule, site
from spotplane_bench.faults.load import Load
from spotplane_bench.faults.processes import until
from spotplane_bench.faults.schedule import Fault

# For outcomes that are unknown at the end. A key that a dead server claimed is free after 90 s; it
# is not waited for, since the check that it was used once does not need the outcome.
OUTCOME_SECONDS: Final = 30.0
# For agents to come back, send what they hold, and finish commands and failovers.
SETTLE_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        seed: Draws the faults.
        seconds: How long faults are injected.
        agents: Real agents.
    """

    seed: int
    seconds: float = 120.0
    agents: int = 40


@dataclass(frozen=True, slots=True)
class Report:
    """What a campaign did and found.

    Attributes:
        counts: Accepted work, by kind.
        outcomes: Calls by kind and status.
        faults: Injected faults, in their order.
        violations: What contradicts the accepted work; empty when nothing does.
    """

    plan: Plan
    counts: dict[str, int]
    outcomes: dict[str, int]
    faults: list[Fault]
    violations: list[str]

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


async def run(
    postgres: Any, up: stack.Stack, plan: Plan, tell: Callable[[str], None] = lambda _text: None
) -> Report:
    """Run a campaign.

    Args:
        postgres: The database's server, which is stopped and started.
        up: Its migrated database.
        plan: What to run.
        tell: Receives a line for each fault.
    """
    async with site.running(postgres, up, plan.agents) as running:
        await _stand_by(running)
        load = Load(running, plan.seed)
        await load.start()
        faults = await _inject(running, plan, tell)
        await running.restore()
        await load.finish(OUTCOME_SECONDS)
        conn = await asyncpg.connect(up.database_url)
        try:
            unsettled = await _settle(conn, running, load)
            found = await checks.violations(conn, running, load.ledger)
        finally:
            await conn.close()
    ledger = load.ledger
    counts = {
        "commands": len(ledger.commands),
        "effects": len(running.effects),
        "usage_records": len(ledger.usage),
        "reported_usage_records": len(ledger.reported),
        "keys": len(ledger.keys),
        "notices": sum(map(len, running.noticed.values())),
    }
    outcomes = dict(sorted(ledger.outcomes.items()))
    return Report(plan, counts, outcomes, faults, [*unsettled, *found])


async def _stand_by(running: site.Site) -> None:
    """Give some agents a replica that stands by."""
    async with grpc.aio.insecure_channel(running.servers[0].target) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        for name in running.noticed:
            instance = running.primary(name)
            if instance is None or instance.agent is None or instance.agent.agent_id is None:
                raise RuntimeError(f"{name} does not serve")
            await stub.UpdateAgentConfig(
                agent_pb2.UpdateAgentConfigRequest(
                    agent_id=instance.agent.agent_id, manual_replica_enabled=True
                ),
                metadata=running.tenant.metadata,
            )


async def _inject(running: site.Site, plan: Plan, tell: Callable[[str], None]) -> list[Fault]:
    loop = asyncio.get_running_loop()
    started, injected = loop.time(), []
    for fault in schedule.draw(plan.seed):
        if loop.time() - started >= plan.seconds:
            break
        tell(f"{loop.time() - started:6.1f} s  {fault.kind} {fault}")
        await running.inject(fault)
        injected.append(fault)
        await asyncio.sleep(fault.pause)
    return injected


async def _settle(
    conn: asyncpg.Connection[asyncpg.Record], running: site.Site, load: Load
) -> list[str]:
    """Wait until everything that was accepted is finished; what is not in time."""

    async def settled() -> bool:
        if any(checks.disconnected_agents(running)) or await checks.list_open(conn, running):
            return False
        return not await checks.missing_usage(conn, running, load.ledger)

    with suppress(TimeoutError):
        await until(settled, SETTLE_SECONDS, "everything is finished")
    return await checks.list_open(conn, running)


def summary(reports: list[Report]) -> dict[str, int]:
    """Sums of several campaigns."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.counts | {"faults": len(report.faults)})
        total["violations"] += len(report.violations)
    return dict(total)
