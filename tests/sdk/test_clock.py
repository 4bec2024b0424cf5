"""Reports carry the server's time although this machine's clock is wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from spotplane_agents import Agent
from spotplane_agents.clock import TOLERANCE, ServerClock, http_date
from spotplane_agents.polling import PollPace

from tests.sdk.conftest import QUICK, MakeAgent, identity
from tests.sdk.plane import ScriptedPlane
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.plane import Plane, running

# The server is behind, so that this machine is ahead of it by more than usage may be.
BEHIND = timedelta(minutes=-6)
NEAR = timedelta(seconds=30)


def is_servers_time(at: datetime) -> bool:
    return abs(at - datetime.now(UTC) - BEHIND) < NEAR


async def test_usage_of_an_agent_whose_clock_is_ahead_is_stored(
    plane_behind: Plane, tmp_path: Path
) -> None:
    tenant = await plane_behind.tenant()
    agent = Agent(
        server=plane_behind.target,
        api_key=tenant.key,
        identity=identity(),
        state_dir=tmp_path,
        retry=QUICK,
    )
    async with agent:
        agent.usage("before", prompt_tokens=1, completion_tokens=1)
        await agent.wait_for(connected=True)
        agent.usage("after", prompt_tokens=1, completion_tokens=1)
        given = datetime.now(UTC) - timedelta(seconds=1)
        agent.usage("given", prompt_tokens=1, completion_tokens=1, timestamp=given)
        await agent.wait_drained()

    stored = await stored_usage(plane_behind)
    assert sorted(stored) == ["after", "before", "given"]
    assert all(is_servers_time(at) for at in stored.values())


async def stored_usage(plane: Plane) -> dict[str, datetime]:
    async with plane.db.connection("*") as conn:
        rows = await conn.fetch("SELECT request_id, timestamp FROM usage_records")
    return {row["request_id"]: row["timestamp"] for row in rows}


@pytest.fixture
async def plane_behind(database_url: str, clock: FakeClock) -> AsyncIterator[Plane]:
    """A real plane whose clock is behind this machine's."""
    clock.advance(BEHIND)
    async with running(database_url, clock) as up:
        yield up


async def test_reports_that_waited_for_the_first_session_carry_the_servers_time(
    plane: ScriptedPlane, make_agent: MakeAgent
) -> None:
    """Usage, prices, notices and ends, also after a restart; the cloud's deadline stays."""
    plane.ahead = BEHIND
    deadline = datetime(2026, 1, 1, tzinfo=UTC)
    await plane.stop()
    async with make_agent(rest="") as first:
        first.usage("r1", prompt_tokens=1, completion_tokens=1)
        await first.report_prices(spot={"g5.xlarge.us-east-1a": 300_000_000})
        await first.notice("termination", deadline=deadline)
        await first.terminated("i-0")
        await first.flush()
    await plane.start()
    async with make_agent(rest="") as second:
        (usage,) = await plane.wait_reports("usage")
        (prices,) = await plane.wait_reports("prices")
        (notice,) = await plane.wait_reports("notice")
        (end,) = await plane.wait_reports("termination")
        await second.wait_drained()

    assert is_servers_time(datetime.fromisoformat(usage.records[0].timestamp))
    for at in (prices.observed_at, notice.detected_at, end.terminated_at):
        assert is_servers_time(at.ToDatetime(UTC))
    assert notice.deadline.ToDatetime(UTC) == deadline


async def test_agent_that_polls_takes_the_time_from_the_responses(tmp_path: Path) -> None:
    """The `Date` header of each."""
    async with polled() as (base, reports):
        agent = Agent(
            server="127.0.0.1:1",
            api_key="key",
            identity=identity(),
            state_dir=tmp_path,
            rest=base,
            poll=PollPace(retry=QUICK),
            retry=QUICK,
        )
        async with agent:
            await agent.report_prices(spot={"g5.xlarge.us-east-1a": 300_000_000})
            await eventually(lambda: reports)
    assert is_servers_time(datetime.fromisoformat(reports[0]["timestamp"]))


@asynccontextmanager
async def polled() -> AsyncIterator[tuple[str, list[Any]]]:
    """REST routes whose clock is behind; the price reports that they got."""
    reports: list[Any] = []

    async def response(request: web.Request) -> web.Response:
        if request.path.endswith("pricing-report"):
            reports.append(await request.json())
        answers: dict[str, Any] = {
            "register": {"agent_id": "a-1", "client_id": "t-1", "config": {}},
            "pending-commands": [],
            "replicas": {"replicas": []},
        }
        date = format_datetime(datetime.now(UTC) + BEHIND, usegmt=True)
        return web.json_response(
            answers.get(request.path.rpartition("/")[2], {}), headers={"Date": date}
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", response)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}", reports
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("seconds", [-1.9, 0.0, 1.9])
def test_difference_within_the_tolerance_changes_nothing(seconds: float) -> None:
    """A network's delay is no wrong clock."""
    clock = ServerClock()
    clock.synchronize(datetime.now(UTC) + timedelta(seconds=seconds))

    assert clock.synchronized
    assert clock.offset() == timedelta()


@pytest.mark.parametrize("seconds", [-300, 3, 86_400])
def test_wrong_clock_is_corrected(seconds: float) -> None:
    clock = ServerClock()
    clock.synchronize(datetime.now(UTC) + timedelta(seconds=seconds))

    assert abs(clock.offset() - timedelta(seconds=seconds)) < TOLERANCE
    assert abs(clock.now() - datetime.now(UTC) - timedelta(seconds=seconds)) < TOLERANCE


@pytest.mark.parametrize("text", [None, "", "yesterday", "Mon, 30 Nov 2026 25:00:00 GMT"])
def test_malformed_date_is_none(text: str | None) -> None:
    assert http_date(text) is None
