"""Days on which tenants were heard of, and what administrators read of events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from spotplane_server.insights import platform_queries, rules
from spotplane_server.insights.jobs import ActivityJob
from spotplane_server.kernel.db.database import ALL_TENANTS, Database

from tests.savings.world import World

NOON: Final = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - (
    timedelta(days=5)
)
DAY: Final = timedelta(days=1)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """The means to write histories."""
    conn = await asyncpg.connect(database_url)
    yield World(conn)
    await conn.close()


async def growth(db: Database, days: int) -> list[Any]:
    """The days from `NOON`'s on."""
    first = NOON.replace(hour=0)
    async with db.connection(ALL_TENANTS) as conn:
        return await platform_queries.tenant_growth(
            conn, first=first, last=first + DAY * (days - 1)
        )


async def test_a_day_stays_active_after_the_next_sign_of_life(db: Database, world: World) -> None:
    """A session remembers its last one only."""
    job = ActivityJob(db)
    tenant_id = await world.tenant(NOON)
    machine = await world.launch(tenant_id, await world.agent(tenant_id, NOON), NOON)
    await world.heard(machine, NOON)
    assert await job.run_once(NOON + timedelta(minutes=5)) == 1
    assert await job.run_once(NOON + timedelta(minutes=10)) == 0
    await world.heard(machine, NOON + 2 * DAY)
    await job.run_once(NOON + 2 * DAY)
    assert [day.active for day in await growth(db, 4)] == [1, 0, 1, 0]


async def test_a_session_over_midnight_counts_for_both_days(db: Database, world: World) -> None:
    """Even if the job ran only afterwards."""
    tenant_id = await world.tenant(NOON)
    machine = await world.launch(tenant_id, await world.agent(tenant_id, NOON), NOON)
    await world.heard(machine, NOON)
    await world.heard(machine, NOON + timedelta(hours=13))
    await ActivityJob(db).run_once(NOON + timedelta(hours=13))
    assert [day.active for day in await growth(db, 2)] == [1, 1]


async def test_growth_counts_who_came_and_who_went(db: Database, world: World) -> None:
    """The total is of those that are there; who came counts even if it went."""
    await world.tenant(NOON - 9 * DAY)
    gone = await world.tenant(NOON)
    await world.tenant(NOON + DAY)
    await world.conn.execute(
        "UPDATE tenants SET deleted_at = $2 WHERE id = $1", gone, NOON + 2 * DAY
    )
    found = await growth(db, 4)
    assert [day.total for day in found] == [2, 3, 2, 2]
    assert [day.new for day in found] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("switch.completed", "switch"),
        ("manual_switch.requested", "switch"),
        ("agent.registered", "agent"),
        ("config.changed", "event"),
        ("agent.deleted", "event"),
    ],
)
def test_events_have_kinds(event: str, kind: str) -> None:
    """As pages tell them apart."""
    assert rules.kind(event) == kind


def test_an_event_that_nobody_is_told_of_has_words_too() -> None:
    """Its name, and what it is about."""
    text = rules.text("config.changed", {"instance_id": "i-1"}, "checkout")
    assert text == "Config changed: checkout, i-1"
    assert rules.text("data.cleanup", {}, None) == "Data cleanup: the plane"


def test_an_event_without_a_proper_agent_is_about_none() -> None:
    """Whatever stands there."""
    agent_id = uuid4()
    found = rules.agent_ids([{"agent_id": str(agent_id)}, {"agent_id": "x"}, {}])
    assert found == {agent_id}


def test_shares_of_nothing_are_zero() -> None:
    """And not an error."""
    assert (rules.percent(1, 0), rules.ratio(1, 0)) == (0, 0)
    assert (rules.percent(1, 4), rules.ratio(1, 4)) == (25, 0.25)
