"""kill -9 of the server, in the middle of commands, failovers and reports."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from spotplane_agents import Agent

from tests.faults.conftest import Site
from tests.support.eventually import eventually
from tests.support.fleet import Calls

# Locks are told as they are; activity as of a transaction's first look, without whoever came later.
BLOCKED = "SELECT count(*) FROM pg_locks WHERE NOT granted"
PROMOTED = "SELECT count(*) FROM outbox_events WHERE event_type = 'replica.promoted'"
EXECUTED = "SELECT count(*) FROM outbox_events WHERE event_type = 'command.executed'"
PRIMARIES = """
    SELECT count(*) FROM instances WHERE status = 'running_primary' GROUP BY agent_id
"""


async def first_agent(site: Site, name: str = "chat") -> Agent:
    """An agent that is connected."""
    agent = (await site.fleet.start(name)).agent
    assert agent is not None
    return agent


async def standing(site: Site, name: str = "chat") -> tuple[Agent, str]:
    """An agent with a ready replica, and that one's instance."""
    agent = await first_agent(site, name)
    calls = await site.calls()
    await calls.configure(str(agent.agent_id), manual_replica_enabled=True)
    replica = await calls.replica(str(agent.agent_id), status="ready")
    return agent, replica.instance_id


async def finished(calls: Calls, command: Any) -> Any:
    """The command, once it is final."""

    async def final() -> Any:
        found = await calls.command(command.agent_id, command.id)
        return found if found.status in {"completed", "failed", "expired"} else None

    return await eventually(final, every=0.15)


async def test_command_takes_effect_once_when_the_server_dies_under_it(site: Site) -> None:
    """The handler runs on; its result waits on disk until there is a server again."""
    agent = await first_agent(site)
    runs: list[str] = []
    go_on = asyncio.Event()

    @agent.command("greet")
    async def greet(command: Any) -> dict[str, int]:
        runs.append(command.id)
        await go_on.wait()
        return {"runs": len(runs)}

    issued = await (await site.calls()).issue(str(agent.agent_id), "greet")

    async def started() -> bool:
        status = await site.sql.fetchval("SELECT status FROM agent_commands")
        return bool(status == "executing")

    await eventually(started)
    await site.server.kill()
    go_on.set()
    await eventually(lambda: not agent.connected)
    await site.server.start()

    done = await finished(await site.calls(), issued)
    assert (done.status, done.result["runs"], len(runs)) == ("completed", 1, 1)
    told = [step.kind for step in done.history]
    assert told == ["issued", "leased", "received", "started", "completed"]
    assert await site.sql.fetchval(EXECUTED) == 1


async def test_result_takes_effect_once_when_the_server_dies_storing_it(site: Site) -> None:
    """Its transaction is cut off between two statements, and the agent reports again."""
    agent = await first_agent(site)
    go_on = asyncio.Event()

    @agent.command("greet")
    async def greet(command: Any) -> None:
        await go_on.wait()

    issued = await (await site.calls()).issue(str(agent.agent_id), "greet")

    async def started() -> bool:
        status = await site.sql.fetchval("SELECT status FROM agent_commands")
        return bool(status == "executing")

    await eventually(started)
    async with site.sql.transaction():
        await site.sql.execute("LOCK TABLE outbox_events IN SHARE MODE")
        go_on.set()
        await eventually(lambda: site.sql.fetchval(BLOCKED))
        await site.server.kill()
    await site.server.start()

    done = await finished(await site.calls(), issued)
    assert done.status == "completed"
    assert [step.kind for step in done.history].count("completed") == 1
    assert await site.sql.fetchval(EXECUTED) == 1


@pytest.mark.parametrize(
    "lock",
    [
        "SELECT id FROM replicas FOR UPDATE",
        "SELECT id FROM instances WHERE status = 'running_primary' FOR UPDATE",
        "SELECT id FROM instances WHERE status = 'running_replica' FOR UPDATE",
    ],
    ids=["replica", "old-primary", "new-primary"],
)
async def test_failover_is_finished_once_when_the_server_dies_in_it(site: Site, lock: str) -> None:
    """The notice is committed, the promotion is not: cut off at each of its steps."""
    agent, standby = await standing(site)
    async with site.sql.transaction():
        await site.sql.execute(lock)
        site.fleet.cloud.interrupt(agent.identity.instance_id, 60)
        await eventually(lambda: site.sql.fetchval("SELECT count(*) FROM failovers"))
        await eventually(lambda: site.sql.fetchval(BLOCKED))
        await site.server.kill()
    assert await site.sql.fetchval(PROMOTED) == 0
    await site.server.start()

    taken_over = site.fleet.cloud.instances[standby].agent
    assert taken_over is not None
    await eventually(lambda: taken_over.role == "primary", within=30)

    assert await site.sql.fetchval(PROMOTED) == 1
    rows = await site.sql.fetch("SELECT status, action FROM failovers")
    assert [tuple(row) for row in rows] == [("resolved", "promoted_replica")]
    assert [row[0] for row in await site.sql.fetch(PRIMARIES)] == [1]


async def test_failovers_survive_a_server_that_dies_again_and_again(site: Site) -> None:
    """Killed at moments of chance while a fleet fails over; every agent moves exactly once."""
    chance = random.Random(20261120)
    fleet = [await standing(site, f"agent-{n}") for n in range(4)]
    for agent, _ in fleet:
        site.fleet.cloud.interrupt(agent.identity.instance_id, 120)
    for _ in range(6):
        # Not a wait for anything: the moment of the fault.
        await asyncio.sleep(chance.uniform(0, 0.08))
        await site.server.kill()
        await site.server.start()

    for _, standby in fleet:
        taken_over = site.fleet.cloud.instances[standby].agent
        assert taken_over is not None
        await eventually(lambda agent=taken_over: agent.role == "primary", within=30)  # type: ignore[misc]

    assert await site.sql.fetchval(PROMOTED) == len(fleet)
    assert [row[0] for row in await site.sql.fetch(PRIMARIES)] == [1] * len(fleet)
    open_ones = "SELECT count(*) FROM failovers WHERE status IN ('detected', 'handling')"
    assert await site.sql.fetchval(open_ones) == 0


async def test_usage_recorded_while_the_server_is_away_arrives_once(site: Site) -> None:
    """And what was on its way when it died arrives once as well."""
    agent = await first_agent(site)
    for number in range(300):
        agent.usage(f"request-{number}", prompt_tokens=1, completion_tokens=1)
    await agent.flush()
    await site.server.kill()
    for number in range(300, 500):
        agent.usage(f"request-{number}", prompt_tokens=1, completion_tokens=1)
    await agent.flush()
    waiting, _ = await agent.spool_size()
    assert waiting > 0

    await site.server.start()
    await asyncio.wait_for(agent.wait_drained(), 30)

    count = await site.sql.fetchval("SELECT count(*) FROM usage_records")
    distinct = await site.sql.fetchval("SELECT count(DISTINCT request_id) FROM usage_records")
    assert (count, distinct) == (500, 500)


async def test_database_that_restarts_under_the_server_costs_no_agent(site: Site) -> None:
    """Every connection is cut, three times; the streams and the background work go on."""
    agent = await first_agent(site)
    for _ in range(3):
        await site.sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await eventually(lambda: agent.connected)
    agent.usage("request-1", prompt_tokens=1, completion_tokens=1)
    await asyncio.wait_for(agent.wait_drained(), 30)

    beat = "SELECT last_heartbeat_at FROM agent_sessions"
    before = await site.sql.fetchval(beat)

    async def later() -> bool:
        return bool(await site.sql.fetchval(beat) > before)

    await eventually(later)
