"""The simulated cloud: real agents on instances that can be taken."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_agents.providers.market import ReplayedMarket, SyntheticMarket
from spotplane_agents.providers.simulated import Service, SimulatedCloud, SimulatedInstance

from tests.sdk.conftest import QUICK
from tests.sdk.plane import ScriptedPlane, command, desired
from tests.support.eventually import eventually

START = datetime(2026, 1, 1, tzinfo=UTC)
POOL_A, POOL_B = "g5.xlarge.us-east-1a", "g5.xlarge.us-east-1b"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[SimulatedCloud]:
    market = ReplayedMarket([(START, POOL_A, 300), (START, POOL_B, 200)], start=START)
    async with SimulatedCloud(
        tmp_path, market=market, on_demand={"g5.xlarge": 1000}, boot_seconds=0.01
    ) as running:
        yield running


def service(plane: ScriptedPlane) -> Service:
    return Service("chat", plane.address, "sp_test", connection={"retry": QUICK})


async def started(cloud: SimulatedCloud, plane: ScriptedPlane) -> SimulatedInstance:
    here: dict[str, Any] = {"instance_type": "g5.xlarge", "region": "us-east-1", "az": "us-east-1a"}
    instance = cloud.start(service(plane), **here)
    await eventually(lambda: instance.agent is not None and instance.agent.connected)
    return instance


async def test_instance_registers_as_what_it_is(
    cloud: SimulatedCloud, plane: ScriptedPlane
) -> None:
    instance = await started(cloud, plane)

    (reply,) = plane.registrations
    assert (reply.instance_id, reply.instance_type, reply.az, reply.mode) == (
        instance.instance_id,
        "g5.xlarge",
        "us-east-1a",
        "spot",
    )


async def test_primary_reports_the_prices_of_its_region(
    cloud: SimulatedCloud, plane: ScriptedPlane
) -> None:
    await started(cloud, plane)

    (report,) = await plane.wait_reports("prices")

    assert {f"{s.instance_type}.{s.az}": s.price_nanousd_per_hour for s in report.spot} == {
        POOL_A: 300,
        POOL_B: 200,
    }
    assert report.on_demand[0].price_nanousd_per_hour == 1000


async def test_interrupted_instance_gets_a_notice_and_stops(
    cloud: SimulatedCloud, plane: ScriptedPlane
) -> None:
    """A notice with the deadline first; at the deadline it is gone without a goodbye."""
    instance = await started(cloud, plane)
    deadline = cloud.interrupt(instance.instance_id, 0.2)

    (notice,) = await plane.wait_reports("notice")
    state: str = instance.state
    assert state == "running"
    await eventually(lambda: instance.state == "terminated" and plane.stream.ended)

    assert notice.deadline.ToDatetime(UTC) == deadline
    assert plane.stream.goodbyes() == []


async def test_replica_is_launched_once_however_often_it_is_ordered(
    cloud: SimulatedCloud, plane: ScriptedPlane
) -> None:
    """The command's id is the client token, and the new instance knows its replica."""
    await started(cloud, plane)
    order = command(
        "create_replica",
        type="create_replica",
        priority=100,
        parameters={"replica_id": "rep-1", "pool_id": POOL_B},
    )
    plane.stream.say(command=order)
    (result,) = await plane.wait_reports("command_result")
    await eventually(lambda: len(plane.registrations) == 2)

    reported = plane.registrations[1]
    assert result.result["instance_id"] == reported.instance_id
    assert (reported.az, reported.replica_id, reported.logical_agent_id) == (
        "us-east-1b",
        "rep-1",
        "chat",
    )
    assert plane.reports("replica")[0].status == "syncing"
    assert len(cloud.instances) == 2


async def test_launch_without_capacity_fails_command_and_replica(
    cloud: SimulatedCloud, plane: ScriptedPlane
) -> None:
    await started(cloud, plane)
    cloud.unavailable_pools.add(POOL_B)
    parameters = {"replica_id": "rep-1", "pool_id": POOL_B}
    plane.stream.say(command=command("create_replica", parameters=parameters))

    (result,) = await plane.wait_reports("command_result")
    (replica,) = await plane.wait_reports("replica")

    assert not result.success
    assert "no spot capacity" in result.message
    assert (replica.replica_id, replica.status) == ("rep-1", "failed")


async def test_terminate_ends_the_own_instance_in_order(
    cloud: SimulatedCloud, plane: ScriptedPlane
) -> None:
    """Result and report still arrive, and goodbye after them."""
    instance = await started(cloud, plane)
    plane.stream.say(command=command("terminate", type="terminate"))

    await eventually(lambda: instance.state == "terminated")

    (report,) = plane.reports("termination")
    assert report.instance_id == instance.instance_id
    assert plane.reports("command_result")[0].success
    assert plane.stream.heard[-1].HasField("goodbye")


async def test_old_instance_of_a_switch_ends_after_the_new_one_serves(
    cloud: SimulatedCloud, plane: ScriptedPlane
) -> None:
    instance = await started(cloud, plane)
    stream = plane.stream
    parameters = {"target_mode": "ondemand", "terminate_wait_seconds": 1}
    stream.say(command=command("switch", type="switch", parameters=parameters))
    await plane.wait_reports("command_result")
    assert instance.state == "running"

    stream.say(desired_state=desired("retired", 2))
    (report,) = await plane.wait_reports("termination")

    assert report.instance_id == instance.instance_id
    assert {i.mode for i in cloud.instances.values()} == {"spot", "ondemand"}


async def test_crashed_instance_falls_silent(cloud: SimulatedCloud, plane: ScriptedPlane) -> None:
    """No notice and no goodbye."""
    instance = await started(cloud, plane)
    await cloud.crash(instance.instance_id)
    await eventually(lambda: plane.stream.ended)

    assert plane.reports("notice") == []
    assert plane.stream.goodbyes() == []
    assert cloud.agents() == []


@given(seed=st.integers(0, 1 << 32), minutes=st.integers(0, 2000))
def test_synthetic_prices_stay_between_nothing_and_on_demand(seed: int, minutes: int) -> None:
    full = {POOL_A: 1_006_000_000, POOL_B: 5}
    at = START + timedelta(minutes=minutes)
    one, two = (SyntheticMarket(full, start=START, seed=seed).prices(at) for _ in range(2))

    assert one == two
    assert all(0 < one[pool] <= full[pool] for pool in full)


def test_recording_is_replayed_from_its_first_moment() -> None:
    """Prices hold until the next row; a pool without one yet is absent."""
    hour = timedelta(hours=1)
    rows = [(START + hour, POOL_B, 7), (START, POOL_A, 1), (START + hour, POOL_A, 2)]
    later = START + timedelta(days=100)
    market = ReplayedMarket(rows, start=later)

    assert market.prices(later) == {POOL_A: 1}
    assert market.prices(later + hour) == {POOL_A: 2, POOL_B: 7}
