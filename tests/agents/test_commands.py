"""The ledger of commands: delivered at least once, effective once, told in full."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from spotplane.v1 import agent_pb2
from spotplane.v1 import agent_stream_pb2 as pb

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.fleet import Calls, simulated
from tests.support.link import Conversation, Hand, run_job
from tests.support.plane import Plane, refusal, refused, running

RECEIVED, STARTED = pb.CommandProgress.STAGE_RECEIVED, pb.CommandProgress.STAGE_STARTED


async def story(calls: Calls, command: agent_pb2.Command) -> list[str]:
    """The steps of a command so far."""
    told = await calls.command(command.agent_id, command.id)
    return [step.kind for step in told.history]


async def until_started(calls: Calls, command: agent_pb2.Command) -> None:
    """Wait until the server has stored that the handler runs."""

    async def started() -> bool:
        return "started" in await story(calls, command)

    await eventually(started)


async def cancel(calls: Calls, command: agent_pb2.Command, **more: Any) -> agent_pb2.Command:
    """Cancel a command."""
    cancelled: agent_pb2.Command = await calls.agents.CancelCommand(
        agent_pb2.CancelCommandRequest(agent_id=command.agent_id, command_id=command.id, **more),
        metadata=calls.metadata,
    )
    return cancelled


async def work(stream: Conversation) -> pb.CommandDelivery:
    """Take the next command and begin it."""
    delivery: pb.CommandDelivery = await stream.hear("command")
    await stream.progress(delivery.command_id, RECEIVED)
    await stream.progress(delivery.command_id, STARTED)
    return delivery


async def test_story_tells_every_step(hand: Hand, calls: Calls) -> None:
    """From issue to result, each with its time."""
    agent_id, stream = await hand.start("i-1")
    issued = await calls.issue(agent_id, "greet", parameters={"name": "Ada"})
    assert (issued.status, issued.instance_id, issued.priority) == ("pending", "i-1", 75)

    delivery = await work(stream)
    assert (delivery.name, delivery.parameters["name"]) == ("greet", "Ada")
    await stream.finish(issued.id, hello="Ada")

    done = await calls.command(agent_id, issued.id)
    assert [step.kind for step in done.history] == [
        "issued",
        "leased",
        "received",
        "started",
        "completed",
    ]
    assert (done.status, done.success, done.result["hello"]) == ("completed", True, "Ada")
    times = [step.occurred_at.ToNanoseconds() for step in done.history]
    assert times == sorted(times)


async def test_first_result_stays(hand: Hand, calls: Calls) -> None:
    """A second one, in whatever session, is acknowledged and changes nothing."""
    agent_id, stream = await hand.start("i-1")
    issued = await calls.issue(agent_id, "greet")
    await work(stream)
    await stream.finish(issued.id, n=1)
    again = await hand.connect(agent_id, "i-1")

    assert await again.finish(issued.id, success=False, n=2) == ""

    done = await calls.command(agent_id, issued.id)
    assert (done.status, done.result["n"]) == ("completed", 1)
    assert (await story(calls, issued)).count("completed") == 1


async def test_command_not_received_comes_again_after_a_reconnect(hand: Hand, calls: Calls) -> None:
    """What was sent into a broken connection is sent again."""
    agent_id, stream = await hand.start("i-1")
    issued = await calls.issue(agent_id, "greet")
    await stream.hear("command")
    await stream.vanish()

    again = await hand.connect(agent_id, "i-1")

    delivery = await again.hear("command")
    assert (delivery.command_id, delivery.delivery) == (issued.id, 2)
    assert await story(calls, issued) == ["issued", "leased", "returned", "leased"]


async def test_command_that_the_agent_works_on_does_not_come_again(
    hand: Hand, calls: Calls
) -> None:
    """The hello says which; its result is taken in the new session."""
    agent_id, stream = await hand.start("i-1")
    issued = await calls.issue(agent_id, "greet")
    await work(stream)
    await until_started(calls, issued)
    await stream.vanish()

    again = await hand.connect(agent_id, "i-1", open_command_ids=[issued.id])
    await again.beat()
    await again.finish(issued.id)

    assert not [r for r in again.heard if r.WhichOneof("kind") == "command"]
    told = await story(calls, issued)
    assert told == ["issued", "leased", "received", "started", "completed"]


async def test_sdk_runs_a_redelivered_command_once(
    plane: Plane, tmp_path: Path, clock: FakeClock
) -> None:
    """The lease ends while the handler runs, so the plane cannot know; the agent does."""
    tenant = await plane.tenant()
    async with simulated(tmp_path, plane.target, tenant) as fleet:
        calls = Calls(plane.channel, tenant)
        instance = await fleet.start()
        agent = instance.agent
        assert agent is not None
        runs: list[str] = []
        go_on = asyncio.Event()

        @agent.command("greet")
        async def greet(command: Any) -> None:
            runs.append(command.id)
            await go_on.wait()

        issued = await calls.issue(str(agent.agent_id), "greet")
        await eventually(lambda: runs)
        clock.advance(timedelta(seconds=601))
        await run_job(plane, "commands")

        async def seen() -> agent_pb2.Command:
            return await calls.command(issued.agent_id, issued.id)

        async def delivered_again() -> bool:
            return (await seen()).delivery_count == 2

        await eventually(delivered_again, every=0.15)
        go_on.set()

        async def done() -> bool:
            return (await seen()).status == "completed"

        await eventually(done, every=0.15)
        assert runs == [issued.id]


async def test_lease_that_ends_returns_the_command_then_it_expires(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Two deliveries at most; an hour at most."""
    agent_id, stream = await hand.start("i-1")
    issued = await calls.issue(agent_id, "greet")
    assert (await stream.hear("command")).delivery == 1

    clock.advance(timedelta(seconds=601))
    await run_job(plane, "commands")
    assert (await stream.hear("command")).delivery == 2
    clock.advance(timedelta(seconds=601))
    await run_job(plane, "commands")

    assert (await calls.command(agent_id, issued.id)).status == "expired"
    expected = ["issued", "leased", "returned", "leased", "expired"]
    assert await story(calls, issued) == expected


async def test_command_that_nobody_fetches_expires(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """At its own time, and it is not delivered afterwards."""
    answer = await hand.register("i-1")
    issued = await calls.issue(answer.agent_id, "greet", expires_in_seconds=30)

    clock.advance(timedelta(seconds=31))
    stream = await hand.connect(answer.agent_id, "i-1")
    await run_job(plane, "commands")

    assert (await calls.command(answer.agent_id, issued.id)).status == "expired"
    await stream.beat()
    assert not [r for r in stream.heard if r.WhichOneof("kind") == "command"]


async def test_cancelled_command_is_not_delivered(hand: Hand, calls: Calls) -> None:
    """Who cancelled, and why, is in its story; it cannot be cancelled twice."""
    answer = await hand.register("i-1")
    issued = await calls.issue(answer.agent_id, "greet")

    cancelled = await cancel(calls, issued, reason="changed my mind")

    assert (cancelled.status, cancelled.history[-1].detail) == ("cancelled", "changed my mind")
    async with refused("COMMAND_FINAL"):
        await cancel(calls, issued)
    stream = await hand.connect(answer.agent_id, "i-1")
    await stream.beat()
    assert not [r for r in stream.heard if r.WhichOneof("kind") == "command"]


async def test_late_result_of_a_cancelled_command_is_told_once(hand: Hand, calls: Calls) -> None:
    """It stays cancelled."""
    agent_id, stream = await hand.start("i-1")
    issued = await calls.issue(agent_id, "greet")
    await work(stream)
    await until_started(calls, issued)
    await cancel(calls, issued)
    assert (await stream.hear("command_cancel")).command_id == issued.id

    await stream.finish(issued.id)
    await stream.finish(issued.id)

    assert (await calls.command(agent_id, issued.id)).status == "cancelled"
    expected = ["issued", "leased", "received", "started", "cancelled", "late_result"]
    assert await story(calls, issued) == expected


async def test_cancellation_reaches_a_stream_on_another_server(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Before the agent begins."""
    async with running(plane.database_url, clock) as second:
        answer = await hand.register("i-1")
        stream = await hand.connect(answer.agent_id, "i-1", second)
        issued = await calls.issue(answer.agent_id, "greet")
        await stream.hear("command")

        await cancel(calls, issued)

        assert (await stream.hear("command_cancel")).command_id == issued.id
        await stream.vanish()


async def test_request_id_makes_issuing_repeatable(hand: Hand, calls: Calls) -> None:
    """The same content answers the first command; another is refused."""
    answer = await hand.register("i-1")
    many = await asyncio.gather(
        *(calls.issue(answer.agent_id, "greet", request_id="deploy-0001") for _ in range(10))
    )

    assert len({command.id for command in many}) == 1
    async with refused("REQUEST_ID_REUSED"):
        await calls.issue(answer.agent_id, "part", request_id="deploy-0001")


async def test_bad_order_is_refused_by_field(hand: Hand, calls: Calls) -> None:
    """Nothing is issued."""
    answer = await hand.register("i-1")
    orders: list[tuple[str, dict[str, Any]]] = [
        ("name", {"name": ""}),
        ("name", {"name": "No spaces"}),
        ("type", {"type": "promote_replica"}),
        ("priority", {"priority": 101}),
        ("request_id", {"request_id": "short"}),
        ("expires_in_seconds", {"expires_in_seconds": 86_401}),
        ("parameters", {"parameters": {"x": "y" * 65_536}}),
    ]
    for field, fields in orders:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.issue(answer.agent_id, **({"name": "greet"} | fields))
        assert refusal(caught.value).fields == [field]

    listed = await calls.agents.ListCommands(
        agent_pb2.ListCommandsRequest(agent_id=answer.agent_id), metadata=calls.metadata
    )
    assert list(listed.data) == []


async def test_one_switch_at_a_time(hand: Hand, calls: Calls) -> None:
    """A second one is refused while one is open."""
    answer = await hand.register("i-1")
    request = agent_pb2.IssueCommandRequest(agent_id=answer.agent_id, type="switch")
    await calls.agents.IssueCommand(request, metadata=calls.metadata)

    async with refused("SWITCH_IN_PROGRESS"):
        await calls.agents.IssueCommand(request, metadata=calls.metadata)


async def test_command_is_not_delivered_after_the_agent_has_moved(hand: Hand, calls: Calls) -> None:
    """Neither to the new instance nor, once it is a zombie, to its own."""
    answer = await hand.register("i-1")
    issued = await calls.issue(answer.agent_id, "greet")
    await hand.register("i-2")

    old = await hand.connect(answer.agent_id, "i-1")
    new = await hand.connect(answer.agent_id, "i-2")
    await old.beat()
    await new.beat()

    for stream in (old, new):
        assert not [r for r in stream.heard if r.WhichOneof("kind") == "command"]
    assert (await calls.command(answer.agent_id, issued.id)).status == "cancelled"


async def test_leased_command_does_not_come_again_to_a_zombie(hand: Hand, calls: Calls) -> None:
    """The agent has moved while it was on its way."""
    agent_id, old = await hand.start("i-1")
    await calls.issue(agent_id, "greet")
    await old.hear("command")
    await hand.register("i-2")

    again = await hand.connect(agent_id, "i-1")
    await again.beat()

    assert not [r for r in again.heard if r.WhichOneof("kind") == "command"]


async def test_most_urgent_command_comes_first(hand: Hand, calls: Calls) -> None:
    """By priority, then by age."""
    answer = await hand.register("i-1")
    orders = [
        await calls.issue(answer.agent_id, f"order{n}", priority=priority)
        for n, priority in enumerate((5, 75, 100, 75))
    ]

    stream = await hand.connect(answer.agent_id, "i-1")

    got = [(await stream.hear("command")).command_id for _ in orders]
    assert got == [orders[2].id, orders[1].id, orders[3].id, orders[0].id]


async def test_two_servers_deliver_a_command_once(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """However often the session moves between them, each delivery is counted and told."""
    async with running(plane.database_url, clock) as second:
        answer = await hand.register("i-1")
        issued = await calls.issue(answer.agent_id, "greet")
        streams = [hand.dial(server) for server in (plane, second) * 4]
        hello = pb.Hello(agent_id=answer.agent_id, instance_id="i-1")
        await asyncio.gather(*(stream.say(hello=hello) for stream in streams))

        def settled() -> bool:
            over = [s for s in streams if s.call.done()]
            return len(over) == len(streams) - 1

        await eventually(settled)
        (left,) = [s for s in streams if not s.call.done()]
        delivery = await left.hear("command")
        command = await calls.command(answer.agent_id, issued.id)
        assert (command.status, command.delivery_count) == ("leased", delivery.delivery)
        await left.vanish()


async def test_result_of_another_agents_command_has_no_effect(hand: Hand, calls: Calls) -> None:
    """A command is its agent's."""
    agent_id, _ = await hand.start("i-1")
    _, other = await hand.start("i-2", name="search")
    issued = await calls.issue(agent_id, "greet")

    await other.progress(issued.id, STARTED)
    await other.finish(issued.id)

    command = await calls.command(agent_id, issued.id)
    assert command.status in {"pending", "leased"}
    assert command.started_at.ToNanoseconds() == 0
