"""One agent that sends far more than it needs to, and another that is not affected."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane_bench.abuse import attacks_agent, attacks_http2
from spotplane_bench.abuse.target import Attack, Size
from spotplane_server.agents.sessions import inbox, session
from spotplane_server.kernel.ratelimit.policy import AGENT_CALLS

from tests.abuse.conftest import Stack
from tests.support.link import Conversation

# What the SDK has on its way at a time, see `spotplane_agents.session`.
SDK_WINDOW = 64


@pytest.mark.parametrize(
    ("attack", "allowed"),
    [
        (attacks_agent.heartbeat_flood, session.HEARTBEAT_BURST),
        (attacks_agent.report_flood, inbox.BURST + inbox.MAX_WAITING),
        (attacks_agent.result_flood, inbox.BURST + inbox.MAX_WAITING),
        (attacks_agent.progress_flood, inbox.BURST + inbox.MAX_WAITING),
    ],
)
async def test_a_flood_ends_the_stream_of_its_agent_only(
    stack: Stack, attack: Attack, allowed: float
) -> None:
    _, other = await stack.hand.start("i-other", name="other")
    size = Size(seconds=10, count=int(4 * allowed), connections=0, body_bytes=0)

    refused = exhausted("Connect")

    await attack(await stack.target(), size)

    assert exhausted("Connect") > refused
    assert (await other.beat()).seq == 1
    assert await other.report(termination=pb.TerminationReport(instance_id="i-9")) == ""


async def test_an_agent_that_reconnects_without_pause_is_refused(stack: Stack) -> None:
    size = Size(seconds=20, count=AGENT_CALLS + 10, connections=0, body_bytes=0)

    outcome = await attacks_agent.reconnect_flood(await stack.target(), size)

    assert outcome["welcome"] >= AGENT_CALLS
    assert outcome["RESOURCE_EXHAUSTED"] >= 1


async def test_a_backlog_sent_as_the_sdk_sends_it_is_taken(stack: Stack) -> None:
    """More than a burst, with no more than the SDK's window without an acknowledgement."""
    _, stream = await stack.hand.start("i-1")
    count = int(inbox.BURST) + SDK_WINDOW

    await replay(stream, count)

    assert (await stream.beat()).seq == 1


async def test_heartbeats_pass_a_backlog_of_reports(stack: Stack) -> None:
    _, stream = await stack.hand.start("i-1")
    for seq in range(1, SDK_WINDOW + 1):
        await stream.say(report=pb.Report(seq=seq, prices=pb.PriceReport(region="us-east-1")))
    await stream.beat()

    kinds = [response.WhichOneof("kind") for response in stream.heard]
    assert kinds.count("report_ack") < SDK_WINDOW


async def replay(stream: Conversation, count: int) -> None:
    """Send reports of an unknown kind, which are acknowledged and change nothing."""
    for seq in range(1, count + 1):
        await stream.say(report=pb.Report(seq=seq))
        if seq > SDK_WINDOW:
            await stream.hear("report_ack")
    for _ in range(SDK_WINDOW):
        await stream.hear("report_ack")


async def test_calls_that_are_reset_at_once_are_refused_beyond_the_connections_limit(
    stack: Stack,
) -> None:
    target = await stack.target()
    outcome = await attacks_http2.rapid_reset(target, Size(5, 4_000, 0, 0))

    assert outcome["rst_stream"] > 0
    _, other = await stack.hand.start("i-other", name="other")
    assert (await other.beat()).seq == 1


async def test_pings_are_answered_and_harm_nobody(stack: Stack) -> None:
    outcome = await attacks_http2.ping_flood(await stack.target(), Size(5, 4_000, 0, 0))

    assert outcome["ping"] >= 4_000
    assert outcome["closed by server"] == 0
    _, other = await stack.hand.start("i-other", name="other")
    assert (await other.beat()).seq == 1


def exhausted(method: str) -> float:
    """Streams of a method that the server ended with RESOURCE_EXHAUSTED.

    A client whose write meets the end of its stream sees INTERNAL instead of the status.
    """
    labels = {"service": "AgentService", "method": method, "code": "RESOURCE_EXHAUSTED"}
    return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0
