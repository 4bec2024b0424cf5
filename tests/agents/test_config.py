"""Configuration: versions, what excludes what, and how it reaches the instances."""

from __future__ import annotations

from spotplane.v1.agent_stream_pb2 import AgentConfig

from tests.support.fleet import Calls
from tests.support.link import Conversation, Hand
from tests.support.plane import refused


async def configured(stream: Conversation, version: int) -> AgentConfig:
    """The configuration that a stream is told, once it has this version."""
    while True:
        state = await stream.hear("desired_state")
        if state.config.config_version >= version:
            assert state.config.config_version == version
            config: AgentConfig = state.config
            return config


async def test_change_raises_the_version_by_one_and_is_pushed_to_all_instances(
    hand: Hand, calls: Calls
) -> None:
    """The primary's stream and the others'."""
    agent_id, first = await hand.start("i-1")
    _, second = await hand.start("i-2")

    await calls.configure(agent_id, terminate_wait_seconds=60, risk_threshold=0.5)

    for stream in (first, second):
        config = await configured(stream, 2)
        assert (config.terminate_wait_seconds, config.risk_threshold) == (60, 0.5)


async def test_change_to_the_same_values_changes_nothing(hand: Hand, calls: Calls) -> None:
    """Only an effective change is one."""
    agent_id, _ = await hand.start("i-1")
    await calls.configure(agent_id, terminate_wait_seconds=60)
    await calls.configure(agent_id, terminate_wait_seconds=60)

    assert (await calls.agent(agent_id)).config.config_version == 2


async def test_no_fields_is_refused(hand: Hand, calls: Calls) -> None:
    """A call that would change nothing is a mistake."""
    agent_id, _ = await hand.start("i-1")

    async with refused("NO_FIELDS"):
        await calls.configure(agent_id)


async def test_modes_exclude_each_other(hand: Hand, calls: Calls) -> None:
    """Both at once is refused; one turns the other off."""
    agent_id, _ = await hand.start("i-1")
    async with refused("MODE_CONFLICT"):
        await calls.configure(agent_id, auto_switch_enabled=True, manual_replica_enabled=True)

    await calls.configure(agent_id, manual_replica_enabled=True)
    config = (await calls.agent(agent_id)).config
    assert (config.manual_replica_enabled, config.auto_switch_enabled) == (True, False)

    await calls.configure(agent_id, auto_switch_enabled=True)
    config = (await calls.agent(agent_id)).config
    assert (config.manual_replica_enabled, config.auto_switch_enabled) == (False, True)


async def test_value_out_of_range_is_named(hand: Hand, calls: Calls) -> None:
    """And changes nothing."""
    answer = await hand.register("i-1")
    for field, value in (
        ("terminate_wait_seconds", -1),
        ("min_savings_percent", 100.5),
        ("risk_threshold", 1.1),
        ("max_switches_per_day", 1001),
        ("min_pool_duration_hours", 721),
    ):
        async with refused("OUT_OF_RANGE", field=field):
            await calls.configure(answer.agent_id, **{field: value})

    assert (await calls.agent(answer.agent_id)).config.config_version == 1


async def test_disabled_agent_gets_emergencies_only(hand: Hand, calls: Calls) -> None:
    """What waited is cancelled, new orders are refused, and an emergency goes through."""
    agent_id, stream = await hand.start("i-1")
    await stream.vanish()
    waiting = await calls.issue(agent_id, "greet")
    await calls.configure(agent_id, enabled=False)
    assert (await calls.agent(agent_id)).status == "disabled"
    assert (await calls.command(agent_id, waiting.id)).status == "cancelled"
    async with refused("AGENT_DISABLED"):
        await calls.issue(agent_id, "greet")
    stream = await hand.connect(agent_id, "i-1")

    urgent = await calls.issue(agent_id, "rescue", priority=100)

    assert (await stream.hear("command")).command_id == urgent.id
    await calls.configure(agent_id, enabled=True)
    assert (await calls.agent(agent_id)).status == "online"
