"""The protocol of Connect: what each message does, and what ends a stream."""

from __future__ import annotations

from typing import Any

import grpc
from spotplane.v1 import agent_pb2
from spotplane.v1 import agent_stream_pb2 as pb

from tests.support.eventually import eventually
from tests.support.link import Conversation, Hand
from tests.support.plane import Plane, Refusal, refusal

CONNECT = "/spotplane.v1.AgentService/Connect"


def hello(agent_id: str, instance_id: str = "i-1") -> dict[str, Any]:
    """A first message."""
    return {"hello": pb.Hello(agent_id=agent_id, instance_id=instance_id)}


async def ended(conversation: Conversation) -> tuple[grpc.StatusCode, str]:
    """Code and reason of a stream's end."""
    said = await conversation.end()
    assert said is not None
    return said.code, said.reason


async def test_welcome_comes_first_then_the_desired_state(hand: Hand) -> None:
    """Then commands, if any wait."""
    agent_id, stream = await hand.start("i-1")
    state = await stream.hear("desired_state")
    assert (state.role, state.primary_instance_id) == ("primary", "i-1")

    again = hand.dial()
    await again.say(**hello(agent_id))
    await eventually(lambda: len(again.heard) >= 2)
    kinds = [response.WhichOneof("kind") for response in again.heard]
    assert kinds[:2] == ["welcome", "desired_state"]
    assert again.heard[0].welcome.epoch == 2


async def test_first_message_must_be_hello(hand: Hand) -> None:
    """Whatever else comes first ends the stream."""
    firsts: list[dict[str, Any]] = [
        {"heartbeat": pb.Heartbeat(seq=1)},
        {"goodbye": pb.Goodbye()},
        {"report": pb.Report(seq=1)},
        {},
    ]
    for first in firsts:
        stream = hand.dial()
        await stream.say(**first)

        assert await ended(stream) == (grpc.StatusCode.FAILED_PRECONDITION, "UNEXPECTED_MESSAGE")


async def test_stream_that_says_nothing_ends_as_unexpected(hand: Hand) -> None:
    """A half-close before the hello."""
    stream = hand.dial()
    await stream.call.done_writing()

    assert await ended(stream) == (grpc.StatusCode.FAILED_PRECONDITION, "UNEXPECTED_MESSAGE")


async def test_hello_is_said_once(hand: Hand) -> None:
    """A second one ends the stream."""
    agent_id, stream = await hand.start("i-1")
    await stream.say(**hello(agent_id))

    assert await ended(stream) == (grpc.StatusCode.FAILED_PRECONDITION, "UNEXPECTED_MESSAGE")


async def test_hello_of_an_unknown_instance_is_refused(hand: Hand) -> None:
    """Register first."""
    answer = await hand.register("i-1")
    stream = hand.dial()
    await stream.say(**hello(answer.agent_id, "i-2"))

    assert await ended(stream) == (grpc.StatusCode.NOT_FOUND, "INSTANCE_NOT_FOUND")


async def test_hello_of_another_tenants_agent_is_not_found(plane: Plane, hand: Hand) -> None:
    """As if there were none."""
    answer = await hand.register("i-1")
    stranger = Hand(plane, await plane.tenant())
    stream = stranger.dial()
    await stream.say(**hello(answer.agent_id))

    assert (await ended(stream))[0] == grpc.StatusCode.NOT_FOUND


async def test_hello_without_a_real_id_is_invalid(hand: Hand) -> None:
    """The field is named."""
    stream = hand.dial()
    await stream.say(**hello("chat"))

    said = await stream.end()
    assert said is not None
    assert said.fields == ["hello.agent_id"]


async def test_message_of_no_known_kind_ends_the_stream(hand: Hand) -> None:
    """What a newer agent would say, in vain."""
    _, stream = await hand.start("i-1")
    await stream.say()

    assert await ended(stream) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_MESSAGE")


async def raw(hand: Hand, *messages: bytes) -> Refusal:
    """The end of a stream that sends bytes as they are."""
    call: Any = hand.plane.channel.stream_stream(CONNECT)(metadata=hand.metadata)
    for message in messages:
        await call.write(message)
    return await drained(call)


async def drained(call: Any) -> Refusal:
    """Read a stream to its end; what it ended with."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as err:
        return refusal(err)
    raise AssertionError("the stream ended well")


async def test_bytes_that_are_no_message_end_the_stream(hand: Hand) -> None:
    """At the beginning and later."""
    agent_id = (await hand.register("i-1")).agent_id
    opening = pb.ConnectRequest(**hello(agent_id)).SerializeToString()

    for messages in ((b"\xff\xff\xff",), (opening, b"\xff\xff\xff")):
        said = await raw(hand, *messages)
        assert (said.code, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MESSAGE")


async def test_message_of_more_than_a_mebibyte_ends_the_stream(hand: Hand) -> None:
    """One byte less would do."""
    agent_id = (await hand.register("i-1")).agent_id
    opening = pb.ConnectRequest(**hello(agent_id)).SerializeToString()
    huge = pb.ConnectRequest(
        report=pb.Report(seq=1, termination=pb.TerminationReport(reason="x" * (1 << 20)))
    ).SerializeToString()

    said = await raw(hand, opening, huge)

    assert (said.code, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE")


async def test_repeated_heartbeat_is_ignored(hand: Hand) -> None:
    """No second answer; the next one is answered."""
    _, stream = await hand.start("i-1")
    await stream.beat()
    await stream.say(heartbeat=pb.Heartbeat(seq=1))

    assert (await stream.beat()).seq == 2
    assert not [r for r in stream.heard if r.WhichOneof("kind") == "heartbeat_ack"]


async def test_heartbeat_is_answered_with_the_pace(hand: Hand) -> None:
    """Five seconds by default, give or take a tenth."""
    _, stream = await hand.start("i-1")

    delay = (await stream.beat()).next_heartbeat_delay.ToTimedelta().total_seconds()

    assert 4.5 <= delay <= 5.5


async def test_repeated_report_is_acknowledged_again_without_effect(hand: Hand) -> None:
    """The first content stays."""
    agent_id, stream = await hand.start("i-1")
    await stream.report(termination=pb.TerminationReport(instance_id="i-9"))
    notice = pb.Notice(kind=pb.Notice.KIND_TERMINATION)
    await stream.say(report=pb.Report(seq=1, notice=notice))

    ack = await stream.hear("report_ack")

    assert ack.seq == 1
    assert not ack.HasField("error")
    async with hand.plane.db.connection("*") as conn:
        assert await conn.fetchval("SELECT count(*) FROM failovers") == 0
    assert agent_id


async def test_gap_between_reports_ends_the_stream(hand: Hand) -> None:
    """Something was lost on the way: the agent sends all of it again."""
    _, stream = await hand.start("i-1")
    await stream.report(termination=pb.TerminationReport(instance_id="i-9"))
    stream.reports = 2
    await stream.say(report=pb.Report(seq=3))

    assert await ended(stream) == (grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_ORDER")


async def test_reports_count_from_any_number(hand: Hand) -> None:
    """What a session begins with is its own choice."""
    _, stream = await hand.start("i-1")
    stream.reports = 41

    assert await stream.report(termination=pb.TerminationReport(instance_id="i-9")) == ""


async def test_report_of_no_known_kind_is_refused_for_good(hand: Hand) -> None:
    """The acknowledgement says so, and the stream goes on."""
    _, stream = await hand.start("i-1")

    assert "no known kind" in await stream.report()
    assert (await stream.beat()).seq == 1


async def test_report_with_a_bad_field_is_refused_for_good(hand: Hand) -> None:
    """Sending it again would not help."""
    _, stream = await hand.start("i-1")
    await stream.say(report=pb.Report(seq=1, command_result=pb.CommandResult(command_id="none")))

    ack = await stream.hear("report_ack")

    assert ack.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_half_close_ends_the_stream_well(hand: Hand) -> None:
    """What was reported before is acknowledged; health is another matter."""
    agent_id, stream = await hand.start("i-1")
    await stream.say(report=pb.Report(seq=1, termination=pb.TerminationReport(instance_id="i-9")))
    await stream.call.done_writing()

    assert await stream.end() is None
    assert (await stream.hear("report_ack")).seq == 1
    agent = await hand.stub.GetAgent(
        agent_pb2.GetAgentRequest(agent_id=agent_id), metadata=hand.metadata
    )
    assert agent.status == "online"


async def test_vanished_stream_is_no_longer_connected_but_online(hand: Hand) -> None:
    """Only silence is a loss."""
    agent_id, stream = await hand.start("i-1")
    request = agent_pb2.GetAgentRequest(agent_id=agent_id)
    assert (await hand.stub.GetAgent(request, metadata=hand.metadata)).connected

    await stream.vanish()

    async def left() -> bool:
        return not (await hand.stub.GetAgent(request, metadata=hand.metadata)).connected

    await eventually(left, every=0.15)
    agent = await hand.stub.GetAgent(request, metadata=hand.metadata)
    assert agent.status == "online"


async def test_agent_that_does_not_read_is_sent_away(hand: Hand) -> None:
    """Its answers fill the outbox; the stream ends, and the server's memory does not."""
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535))
    agent_id = (await hand.register("i-1")).agent_id
    async with grpc.aio.insecure_channel(hand.plane.target, options) as channel:
        call: Any = channel.stream_stream(
            CONNECT, request_serializer=pb.ConnectRequest.SerializeToString
        )(metadata=hand.metadata)
        await call.write(pb.ConnectRequest(**hello(agent_id)))
        try:
            for seq in range(1, 40_000):
                await call.write(pb.ConnectRequest(report=pb.Report(seq=seq)))
        except (grpc.aio.AioRpcError, grpc.aio.UsageError):
            pass
        said = await drained(call)
    assert said.reason == "SLOW_CONSUMER"
