"""One primary after every commit, whatever comes at once and in whatever order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import grpc.aio
import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.fleet.world import POOLS, ZONES, World

# What a caller may be told when somebody else was faster.
_LOST = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
}


async def unhurt(action: Awaitable[object]) -> None:
    """Do something that may come too late."""
    try:
        await action
    except grpc.aio.AioRpcError as err:
        assert err.code() in _LOST, err  # noqa: PT017 - which codes are fair is the rule


async def primaries(world: World) -> dict[str, list[str]]:
    """Who serves which agent that is not deleted."""
    query = """
        SELECT a.id, array_agg(i.id) FILTER (WHERE i.status = 'running_primary') AS serving
          FROM agents a LEFT JOIN instances i ON i.tenant_id = a.tenant_id AND i.agent_id = a.id
         WHERE a.deleted_at IS NULL AND a.tenant_id = $1
         GROUP BY a.id
    """
    async with world.plane.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch(query, world.tenant.id)
    return {str(row["id"]): row["serving"] or [] for row in rows}


@pytest.mark.parametrize("seed", range(4))
async def test_reports_completions_and_registrations_at_once_leave_one_primary(
    world: World, seed: int
) -> None:
    """Any interleaving, each told twice; nothing but what was left is a zombie."""
    draw = random.Random(seed)
    agent_id = await world.start("i-old")
    await world.force("i-old", target="pool", pool_id=POOLS[1])
    command = await world.lease(agent_id, "i-old")
    actions: list[Callable[[], Awaitable[object]]] = [
        lambda: world.report(agent_id),
        lambda: world.done(agent_id, command.id, instance_id="i-new"),
        lambda: world.done(agent_id, command.id),
        lambda: world.start("i-new", az=ZONES[1]),
        lambda: world.start("i-old"),
        lambda: world.start("i-stranger", az=ZONES[2]),
    ]
    chosen = draw.sample(actions, 4) * 2
    draw.shuffle(chosen)

    await asyncio.gather(*(unhurt(action()) for action in chosen))

    serving = await primaries(world)
    assert [len(ids) for ids in serving.values()] == [1], serving
    rows = [row for row in await world.switches() if row["success"]]
    assert len({row["command_id"] for row in rows}) == len(rows) <= 1
    assert len(await world.told("switch.completed")) == len(rows)


async def test_parallel_reports_of_one_switch_are_one_switch(world: World) -> None:
    """From as many connections as there are."""
    agent_id = await world.start("i-old")

    ids = await asyncio.gather(*(world.report(agent_id) for _ in range(6)))

    assert len(set(ids)) == 1
    assert len(await world.switches()) == 1
    assert await world.instances() == {"i-old": "zombie", "i-new": "running_primary"}


async def test_reports_of_two_switches_at_once_leave_one_primary(world: World) -> None:
    """One wins; the instance of the other is kept as extra."""
    agent_id = await world.start("i-old")

    await asyncio.gather(world.report(agent_id, new="i-a"), world.report(agent_id, new="i-b"))

    states = await world.instances()
    assert sorted(states.values()) == ["running_primary", "zombie", "zombie"]
    assert sorted(row["success"] for row in await world.switches()) == [False, True]


async def test_parallel_orders_of_one_switch_are_one_command(world: World) -> None:
    """The unique index decides, and the others are told of the open one."""
    await world.start("i-old")

    answers = await asyncio.gather(*(world.force(target="ondemand") for _ in range(5)))

    assert {answer.success for answer in answers} == {True}
    assert len({answer.command_id for answer in answers}) == 1
