"""Commands: each once, emergencies at once."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane_agents import Agent, Command, CommandFailed
from spotplane_agents.journal import INTERRUPTED

from tests.sdk.conftest import MakeAgent
from tests.sdk.plane import ScriptedPlane, command, desired
from tests.support.eventually import eventually

RECEIVED = pb.CommandProgress.STAGE_RECEIVED
STARTED = pb.CommandProgress.STAGE_STARTED


def counting(agent: Agent, name: str, *, idempotent: bool = False) -> list[str]:
    """Register a handler that notes the ids it ran for."""
    ran: list[str] = []

    @agent.command(name, idempotent=idempotent)
    async def handler(order: Command) -> Mapping[str, Any]:
        ran.append(order.id)
        return {"count": len(ran)}

    return ran


def blocking(agent: Agent, name: str, *, idempotent: bool = False) -> asyncio.Event:
    """Register a handler that waits for ever; the event says that it began."""
    begun = asyncio.Event()

    @agent.command(name, idempotent=idempotent)
    async def handler(_: Command) -> None:
        begun.set()
        await asyncio.Event().wait()

    return begun


async def test_command_reports_each_step(plane: ScriptedPlane, make_agent: MakeAgent) -> None:
    """Received once it is on disk, started with its handler, then its result."""
    agent = make_agent()
    counting(agent, "greet")
    order = command("greet")
    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.say(command=order)
        (result,) = await plane.wait_reports("command_result")

    assert plane.progress(RECEIVED) == plane.progress(STARTED) == [order.command_id]
    assert (result.command_id, result.success, result.result["count"]) == (
        order.command_id,
        True,
        1,
    )


async def test_redelivery_after_a_reconnect_has_no_second_effect(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """The stored result is sent again; the handler does not run."""
    agent, order = make_agent(), command("greet")
    ran = counting(agent, "greet")
    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.say(command=order)
        await agent_settled(plane, agent, 1)
        plane.stream.end(grpc.StatusCode.UNAVAILABLE)
        await eventually(lambda: len(plane.streams) == 2)
        plane.stream.say(command=command("greet", order.command_id, delivery=2))
        await agent_settled(plane, agent, 2)

    assert ran == [order.command_id]
    assert [r.result["count"] for r in plane.reports("command_result")] == [1, 1]


async def agent_settled(plane: ScriptedPlane, agent: Agent, results: int) -> None:
    await eventually(lambda: len(plane.reports("command_result")) == results)
    await agent.wait_drained()


async def test_redelivery_after_a_restart_has_no_second_effect(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """A new process on the same disk knows what the old one did."""
    order, first = command("greet"), make_agent()
    ran = counting(first, "greet")
    async with first:
        await first.wait_for(connected=True)
        plane.stream.say(command=order)
        await agent_settled(plane, first, 1)

    second = make_agent()
    ran_again = counting(second, "greet")
    async with second:
        await second.wait_for(connected=True)
        plane.stream.say(command=order)
        await agent_settled(plane, second, 2)

    assert (ran, ran_again) == ([order.command_id], [])


async def test_command_cut_off_by_a_crash_is_failed(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Whether it took effect is unknown, so it is neither repeated nor called done."""
    order, first = command("pay"), make_agent()
    begun = blocking(first, "pay")
    await first.start()
    await first.wait_for(connected=True)
    plane.stream.say(command=order)
    await begun.wait()
    await first.kill()

    second = make_agent()
    ran = counting(second, "pay")
    async with second:
        (result,) = await plane.wait_reports("command_result")

    assert ran == []
    assert (result.success, result.message) == (False, INTERRUPTED)
    assert list(plane.stream.hello.open_command_ids) == [order.command_id]


async def test_idempotent_command_cut_off_by_a_crash_runs_again(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    order, first = command("sync"), make_agent()
    begun = blocking(first, "sync", idempotent=True)
    await first.start()
    await first.wait_for(connected=True)
    plane.stream.say(command=order)
    await begun.wait()
    await first.kill()

    second = make_agent()
    ran = counting(second, "sync", idempotent=True)
    async with second:
        (result,) = await plane.wait_reports("command_result")

    assert (ran, result.success) == ([order.command_id], True)


async def test_emergency_does_not_wait_behind_a_slow_command(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Priority 100 has a task of its own."""
    agent, emergency = make_agent(), command("rescue", priority=100)
    begun, ran = blocking(agent, "slow"), counting(agent, "rescue")
    await agent.start()
    await agent.wait_for(connected=True)
    plane.stream.say(command=command("slow"))
    await begun.wait()
    plane.stream.say(command=emergency)

    await plane.wait_reports("command_result")
    assert ran == [emergency.command_id]


async def test_higher_priority_goes_first(plane: ScriptedPlane, make_agent: MakeAgent) -> None:
    """Among those that wait; what runs is not interrupted."""
    agent = make_agent()
    release, ran = asyncio.Event(), counting(agent, "next")

    @agent.command("first")
    async def first(_: Command) -> None:
        await release.wait()

    orders = [command("next", priority=p) for p in (10, 90, 50)]
    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.say(command=command("first"))
        for order in orders:
            plane.stream.say(command=order)
        await eventually(lambda: len(plane.progress(RECEIVED)) == 4)
        release.set()
        await eventually(lambda: len(ran) == 3)

    assert ran == [orders[i].command_id for i in (1, 2, 0)]


async def test_disabled_agent_begins_emergencies_only(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """The rest waits until it is enabled again."""
    plane.desired = desired("primary", enabled=False)
    agent = make_agent()
    ran = counting(agent, "greet")
    ordinary, emergency = command("greet"), command("greet", priority=100)
    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.say(command=ordinary)
        plane.stream.say(command=emergency)
        await eventually(lambda: len(plane.reports("command_result")) == 1)
        assert ran == [emergency.command_id]

        plane.stream.say(desired_state=desired("primary", 2))
        await eventually(lambda: len(plane.reports("command_result")) == 2)

    assert ran == [emergency.command_id, ordinary.command_id]


async def test_expired_command_is_not_begun(plane: ScriptedPlane, make_agent: MakeAgent) -> None:
    agent = make_agent()
    ran = counting(agent, "greet")
    late, good = command("greet", expires_in=-1), command("greet")
    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.say(command=late)
        plane.stream.say(command=good)
        await plane.wait_reports("command_result")

    assert ran == [good.command_id]


async def test_cancelled_command_is_not_begun(plane: ScriptedPlane, make_agent: MakeAgent) -> None:
    agent = make_agent()
    release, ran = asyncio.Event(), counting(agent, "greet")

    @agent.command("first")
    async def first(_: Command) -> None:
        await release.wait()

    cancelled, kept = command("greet"), command("greet")
    async with agent:
        await agent.wait_for(connected=True)
        for order in (command("first"), cancelled, kept):
            plane.stream.say(command=order)
        plane.stream.say(command_cancel=pb.CommandCancel(command_id=cancelled.command_id))
        plane.stream.say(command=command("greet", cancelled.command_id, delivery=2))
        await eventually(lambda: len(plane.progress(RECEIVED)) == 3)
        plane.stream.say(command=command("last", priority=1))
        await eventually(lambda: len(plane.progress(RECEIVED)) == 4)
        release.set()
        await eventually(lambda: len(plane.reports("command_result")) == 3)

    assert ran == [kept.command_id]


async def test_failures_are_reported_with_their_reason(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Refusal, accident and ignorance are all results."""
    agent = make_agent()

    @agent.command("refuse")
    async def refuse(_: Command) -> None:
        raise CommandFailed("not today")

    @agent.command("break")
    async def fail(_: Command) -> None:
        raise KeyError("model")

    async with agent:
        await agent.wait_for(connected=True)
        for name in ("refuse", "break", "unheard"):
            plane.stream.say(command=command(name))
        results = await plane.wait_reports("command_result", 3)

    assert [r.success for r in results] == [False, False, False]
    assert [r.message for r in results] == [
        "not today",
        "KeyError: 'model'",
        "this agent has no handler 'unheard'",
    ]


async def test_unserializable_result_does_not_undo_the_command(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    agent = make_agent()

    @agent.command("dump")
    async def dump(_: Command) -> Mapping[str, Any]:
        return {"text": "x" * 70_000}

    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.say(command=command("dump"))
        (result,) = await plane.wait_reports("command_result")

    assert result.success
    assert "larger than 65536 bytes" in result.message
