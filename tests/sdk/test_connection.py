"""The connection: coming back, and losing nothing on the way."""

import gc
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane_agents import AgentDeleted, SessionReplaced, SpoolLimits, StateInUse
from spotplane_bench.chaos import chaos_proxy

from tests.sdk.conftest import MakeAgent, identity
from tests.sdk.plane import ScriptedPlane, desired
from tests.support.eventually import eventually


async def test_agent_registers_once_and_sends_hello(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """The first message names the instance, and the key travels as metadata."""
    async with make_agent() as agent:
        await agent.wait_for(role="primary", connected=True)

        assert agent.agent_id == plane.stream.hello.agent_id
        assert plane.stream.hello.instance_id == "i-1"
        assert plane.registrations[0].logical_agent_id == "chat"
        assert plane.keys == ["Bearer sp_test"]


async def test_heartbeats_follow_the_pace_of_the_plane(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    async with make_agent():
        beats = await eventually(lambda: len(plane.streams) and len(plane.stream.beats()) >= 3)

    assert beats
    assert [b.seq for b in plane.stream.beats()][:3] == [1, 2, 3]
    assert plane.stream.beats()[-1].applied_generation == 1


async def test_agent_comes_back_with_the_same_identity(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """After any end it connects anew, without registering again."""
    async with make_agent() as agent:
        await agent.wait_for(connected=True)
        plane.stream.end(grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await eventually(lambda: len(plane.streams) == 2)
        plane.stream.end()
        await eventually(lambda: len(plane.streams) == 3)

    assert len(plane.registrations) == 1


async def test_agent_leaves_an_unresponsive_server(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    plane.beating = False
    async with make_agent(silence_seconds=0.2) as agent:
        await agent.wait_for(connected=True)
        await agent.wait_for(connected=False)
        assert "no answer" in (agent.last_error or "")

        plane.beating = True
        await eventually(lambda: len(plane.streams) > 1 and len(plane.stream.beats()) > 3)


async def test_reconnect_order_sets_the_slot(plane: ScriptedPlane, make_agent: MakeAgent) -> None:
    async with make_agent() as agent:
        await agent.wait_for(connected=True)
        plane.stream.say(reconnect=pb.Reconnect(delay=Duration(nanos=200_000_000)))
        await agent.wait_for(connected=False)

        assert agent.connection_state == "waiting"
        assert agent.last_error is None
        await eventually(lambda: len(plane.streams) == 2)


async def test_reports_survive_a_restart_while_the_plane_is_away(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    await plane.stop()
    async with make_agent() as first:
        first.usage("r1", prompt_tokens=1, completion_tokens=2)
        await first.notice("rebalance")

    await plane.start()
    async with make_agent() as second:
        await second.wait_drained()

    assert [r.records[0].request_id for r in plane.reports("usage")] == ["r1"]
    assert [n.instance_id for n in plane.reports("notice")] == ["i-1"]


async def test_unacknowledged_reports_are_sent_again_in_the_next_session(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Numbers start over without a gap; only an acknowledgement deletes."""
    plane.acking = False
    async with make_agent() as agent:
        for name in ("r1", "r2", "r3"):
            agent.usage(name, prompt_tokens=1, completion_tokens=1)
            await agent.flush()
        await eventually(lambda: len(plane.reports("usage")) == 3)
        plane.acking = True
        plane.stream.end(grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_ORDER")
        await agent.wait_drained()

    assert [r.seq for r in plane.stream.reports()] == [1, 2, 3]
    assert [r.usage.records[0].request_id for r in plane.stream.reports()] == ["r1", "r2", "r3"]


async def test_refused_report_is_not_sent_again(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """An acknowledgement with an error is final."""
    plane.acking = False
    async with make_agent() as agent:
        await agent.notice("rebalance")
        await plane.wait_reports("notice")
        report = plane.stream.reports()
        plane.stream.say(
            report_ack=pb.ReportAck(seq=report[0].seq, error=Status(code=3, message="no"))
        )
        await agent.wait_drained()


async def test_window_bounds_what_is_on_its_way_and_keeps_room_for_a_notice(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """A backlog of usage takes three quarters of the window; a notice passes it."""
    plane.acking = False
    async with make_agent() as agent:
        for number in range(100):
            await agent.report_prices(spot={"g5.xlarge.us-east-1a": number + 1})
        await eventually(lambda: len(plane.reports("prices")) == 48)
        await agent.notice("termination")
        await eventually(lambda: plane.reports("notice"))

        assert len(plane.reports("prices")) == 48
        await agent.kill()


async def test_backlog_larger_than_the_window_is_sent_completely(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Acknowledgements make room until nothing is left."""
    await plane.stop()
    async with make_agent() as agent:
        for number in range(300):
            await agent.report_prices(spot={"g5.xlarge.us-east-1a": number + 1})
        await plane.start()
        await agent.wait_drained()

    sent = [p.spot[0].price_nanousd_per_hour for p in plane.reports("prices")]
    assert sent == list(range(1, 301))


async def test_spool_stays_bounded_while_the_plane_is_away(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Usage beyond the bound is dropped oldest first, and counted."""
    await plane.stop()
    async with make_agent(spool_limits=SpoolLimits(max_count=5)) as agent:
        for number in range(20):
            agent.usage(f"r{number}", prompt_tokens=1, completion_tokens=1)
            await agent.flush()

        assert (await agent.spool_size())[0] == 5
        assert await agent.spool_dropped() == {"usage": 15}


async def test_replaced_session_stops_the_agent(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Two processes with one identity must not take the session from each other for ever."""
    agent = make_agent()
    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.end(grpc.StatusCode.ABORTED, "SESSION_REPLACED")
        with pytest.raises(SessionReplaced):
            await agent.wait_closed()

    assert agent.connection_state == "replaced"
    assert len(plane.streams) == 1


async def test_replaced_agent_may_wait_instead(plane: ScriptedPlane, make_agent: MakeAgent) -> None:
    async with make_agent(on_replaced="wait") as agent:
        await agent.wait_for(connected=True)
        plane.stream.end(grpc.StatusCode.ABORTED, "SESSION_REPLACED")
        await eventually(lambda: len(plane.streams) == 2)


async def test_deleted_agent_does_not_register_again(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Coming back would undo what the operator did."""
    async with make_agent() as agent:
        await agent.wait_for(connected=True)
        plane.stream.end(grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")
        with pytest.raises(AgentDeleted):
            await agent.wait_closed()


async def test_refused_key_is_surfaced_and_tried_again(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    plane.refuse = (grpc.StatusCode.PERMISSION_DENIED, "KEY_SUSPENDED")
    async with make_agent() as agent:
        await eventually(lambda: agent.connection_state == "refused")
        assert "KEY_SUSPENDED" in (agent.last_error or "")

        plane.refuse = None
        await agent.wait_for(connected=True)
        assert agent.last_error is None


async def test_clean_stop_flushes_and_sends_goodbye(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    async with make_agent() as agent:
        await agent.wait_for(connected=True)
        agent.usage("last", prompt_tokens=1, completion_tokens=1)

    assert [r.records[0].request_id for r in plane.reports("usage")] == ["last"]
    assert plane.stream.heard[-1].HasField("goodbye")


async def test_killed_agent_sends_no_goodbye(plane: ScriptedPlane, make_agent: MakeAgent) -> None:
    """A crash is silence."""
    agent = make_agent()
    await agent.start()
    await agent.wait_for(connected=True)
    await agent.kill()
    await eventually(lambda: plane.stream.ended)

    assert plane.stream.goodbyes() == []


async def test_second_process_on_one_disk_is_refused(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """It would carry out the same commands."""
    async with make_agent():
        with pytest.raises(StateInUse):
            await make_agent().start()


async def test_usage_is_cut_into_reports_that_fit_a_message(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    async with make_agent() as agent:
        for number in range(2500):
            agent.usage(f"r{number}", prompt_tokens=1, completion_tokens=1)
        for number in range(60):
            big = {"text": "x" * 15_000}
            agent.usage(f"b{number}", prompt_tokens=1, completion_tokens=1, record_metadata=big)
        await agent.wait_drained()

    heard = plane.reports("usage")
    assert sum(len(r.records) for r in heard) == 2560
    assert all(len(r.records) <= 1000 and r.ByteSize() < 1 << 20 for r in heard)


async def test_roles_and_configurations_reach_the_hooks_once_each(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    agent, roles, versions = make_agent(), [], []

    @agent.on_role_change
    async def role_changed(old: str, new: str) -> None:
        roles.append((old, new))

    @agent.on_config
    async def config_changed(config: pb.AgentConfig) -> None:
        versions.append(config.config_version)

    async with agent:
        await eventually(lambda: versions == [1] and agent.connected)
        plane.stream.say(desired_state=desired("retired", 3))
        plane.stream.say(desired_state=desired("primary", 2))
        await eventually(lambda: [b for b in plane.stream.beats() if b.applied_generation == 3])

    assert roles == [("", "primary"), ("primary", "retired")]
    assert versions == [1, 3]


async def test_replica_is_ready_once_it_is_warm(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    plane.desired = desired("replica", replica_id="rep-1")
    agent, steps = make_agent(identity=identity("i-2", replica_id="rep-1")), []

    @agent.warm_up
    async def load_model() -> None:
        steps.append(len(plane.reports("replica")))

    async with agent:
        await eventually(lambda: plane.reports("replica"))

    (report,) = plane.reports("replica")
    assert steps == [0]
    assert (report.replica_id, report.instance_id, report.status) == ("rep-1", "i-2", "ready")
    assert plane.registrations[0].replica_id == "rep-1"


async def test_replica_that_cannot_warm_up_is_failed(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    plane.desired = desired("replica", replica_id="rep-1")
    agent = make_agent()

    @agent.warm_up
    async def load_model() -> None:
        raise OSError("no such model")

    async with agent:
        (report,) = await plane.wait_reports("replica")

    assert (report.status, report.message) == ("failed", "OSError: no such model")


async def test_unknown_usage_field_is_refused_at_the_call(
    make_agent: MakeAgent, tmp_path: Path
) -> None:
    """A typing error is seen by who made it."""
    with pytest.raises(ValueError, match="lateny"):
        make_agent().usage("r1", prompt_tokens=1, completion_tokens=1, lateny=3)


async def test_abandoned_connections_are_closed(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    gc.disable()
    try:
        async with chaos_proxy(("127.0.0.1", plane.port)) as proxy:
            agent = make_agent(server=proxy.target, rest="", silence_seconds=0.2)
            await agent.start()
            await agent.wait_for(connected=True)
            for silences in range(1, 4):
                proxy.silence()
                await eventually(lambda: not agent.connected)
                proxy.restore()
                await agent.wait_for(connected=True)
                assert len(plane.streams) > silences
            await eventually(lambda: proxy.connections == 1, within=5)
    finally:
        gc.enable()
