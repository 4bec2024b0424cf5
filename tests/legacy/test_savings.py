"""Legacy API of savings, charts, the monthly export, and downtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.savings import rules
from spotplane_server.savings.jobs import SavingsJob

from tests.legacy.field import ADMIN, ANONYMOUS, UNKNOWN_ID, Field, covers
from tests.savings.world import Machine, World, bucket
from tests.support.clock import FakeClock

DOLLAR = 1_000_000_000
ROUTES = ("savings", "stats/charts", "export/savings", "analytics/downtime")


@dataclass
class Past:
    """An hour of a tenant's agent on spot at 0.4 $/h that would have cost 1 $/h on demand."""

    world: World
    machine: Machine
    start: datetime
    now: datetime

    def path(self, route: str) -> str:
        return f"/api/client/{self.machine.tenant_id}/{route}"


@pytest.fixture
async def past(field: Field, database_url: str, clock: FakeClock) -> AsyncIterator[Past]:
    """An hour that ended in the bucket before the last, independent of the current time."""
    conn = await asyncpg.connect(database_url)
    world, now = World(conn), clock.now()
    end = bucket(now) - rules.BUCKET
    start = end - timedelta(hours=1)
    tenant_id = TenantId(UUID(field.tenant.id))
    await world.on_demand(start - timedelta(hours=1), DOLLAR)
    await world.spot("a", start, 4 * DOLLAR // 10)
    agent_id = await world.agent(tenant_id, start)
    machine = await world.launch(tenant_id, agent_id, start)
    await world.heard(machine, end)
    await world.move(machine, "terminated", end)
    await SavingsJob(field.plane.db).run_once(now)
    yield Past(world, machine, start, now)
    await conn.close()


@covers("58", "good")
async def test_savings_are_listed_by_period(field: Field, past: Past) -> None:
    [*before, last] = await field.get(past.path("savings?range=yearly"))
    assert list(last) == ["name", "period", "savings", "onDemandCost", "modelCost"]
    periods = [*before, last]
    assert sum(period["savings"] for period in periods) == pytest.approx(0.6)
    assert sum(period["onDemandCost"] for period in periods) == pytest.approx(1)
    assert sum(period["modelCost"] for period in periods) == pytest.approx(0.4)
    assert (last["name"], last["period"]) == (f"{past.now:%Y}", f"{past.now:%Y}-01-01")


@covers("58", "good")
@pytest.mark.parametrize("span", ["daily", "weekly", "monthly", "yearly"])
async def test_every_range_has_the_same_total(field: Field, past: Past, span: str) -> None:
    periods = await field.get(past.path(f"savings?range={span}"))
    start = rules.period(span, past.now)  # type: ignore[arg-type]
    assert periods[-1]["period"] == f"{start:%Y-%m-%d}"
    assert sum(period["savings"] for period in periods) == pytest.approx(0.6)


@covers("58", "bad")
async def test_an_unknown_range_is_refused(field: Field) -> None:
    path = f"/api/client/{field.tenant.id}/savings?range=hourly"
    reply = await field.refused("VALIDATION_ERROR", "GET", path, status=400)
    assert reply["details"][0]["field"] == "range"


async def test_nothing_accounted_is_an_empty_list(field: Field) -> None:
    assert await field.get(f"/api/client/{field.tenant.id}/savings") == []


@covers("60", "good")
async def test_charts_are_drawn(field: Field, past: Past) -> None:
    other = await past.world.launch(
        past.machine.tenant_id, past.machine.agent_id, past.now, mode="ondemand"
    )
    await past.world.switch(past.machine, other, past.now)
    reply = await field.get(past.path("stats/charts"))
    assert list(reply) == ["savingsTrend", "modeDistribution", "switchFrequency"]
    assert list(reply["savingsTrend"][-1]) == ["month", "savings", "baseline", "actual"]
    assert reply["savingsTrend"][-1]["month"] == rules.month_name(past.now)
    assert reply["modeDistribution"] == [{"mode": "ondemand", "count": 1}]
    assert len(reply["switchFrequency"]) == 30
    assert sum(day["switches"] for day in reply["switchFrequency"]) == 1
    assert reply["switchFrequency"][0]["switches"] == 0


@covers("61", "good")
async def test_months_are_exported(field: Field, past: Past) -> None:
    async with field.send("GET", past.path("export/savings")) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        name = f"client_{past.machine.tenant_id}_savings.csv"
        assert name in response.headers["Content-Disposition"]
        header, *lines = (await response.text()).splitlines()
    assert header == ("Year,Month,Month Name,On-Demand Cost ($),Actual Cost ($),Savings ($)")
    assert lines[0].startswith(f"{past.start:%Y},{past.start.month},")
    assert [sum(float(line.split(",")[at]) for line in lines) for at in (3, 4, 5)] == (
        pytest.approx([1, 0.4, 0.6], abs=0.011)
    )


@covers("61", "good")
async def test_an_export_of_nothing_is_its_header(field: Field) -> None:
    path = f"/api/client/{field.tenant.id}/export/savings"
    async with field.send("GET", path) as response:
        assert len((await response.text()).splitlines()) == 1
    assert await field.get(f"{path}?format=json") == {"rows": []}


@covers("73", "good")
async def test_downtime_is_summed_up(field: Field, past: Past) -> None:
    other = Machine(past.machine.tenant_id, past.machine.agent_id, "i-other")
    at = past.now - timedelta(minutes=10)
    longest = await past.world.switch(past.machine, other, at, trigger="EMERGENCY", downtime=30)
    await past.world.switch(past.machine, other, at, trigger="MANUAL", downtime=10)
    await past.world.switch(past.machine, other, at, downtime=0)
    await past.world.switch(past.machine, other, at, success=False)
    await past.world.switch(past.machine, other, at - timedelta(days=30), downtime=10)
    reply = await field.get(past.path("analytics/downtime"))
    reported: Any = reply["longest_downtime"].pop("timestamp")
    assert reported.endswith("Z")
    assert reply == {
        "total_downtime_seconds": 40,
        "average_downtime_per_switch": pytest.approx(40 / 3),
        "switches_with_downtime": 2,
        "switches_without_downtime": 1,
        "downtime_by_trigger": {
            "automatic": {"total_seconds": 0, "average_seconds": 0, "count": 1},
            "manual": {"total_seconds": 10, "average_seconds": 10, "count": 1},
            "emergency": {"total_seconds": 30, "average_seconds": 30, "count": 1},
        },
        "longest_downtime": {
            "switch_id": str(longest),
            "downtime_seconds": 30,
            "reason": "switch",
        },
        "total_switches": 4,
        "successful_switches": 3,
        "failed_switches": 1,
        "avg_downtime_seconds": pytest.approx(40 / 3),
        "p95_downtime_seconds": pytest.approx(28),
        "min_downtime_seconds": 0,
        "max_downtime_seconds": 30,
        "trend": pytest.approx(100 / 3),
    }


async def test_no_downtime_is_zeros(field: Field) -> None:
    reply = await field.get(f"/api/client/{field.tenant.id}/analytics/downtime")
    nulls = {name for name, value in reply.items() if value is None}
    assert nulls == {"longest_downtime", "trend"}


@covers("73", "bad")
@pytest.mark.parametrize("days", ["0", "366", "soon"])
async def test_a_window_out_of_range_is_refused(field: Field, days: str) -> None:
    path = f"/api/client/{field.tenant.id}/analytics/downtime?days={days}"
    await field.refused("VALIDATION_ERROR", "GET", path, status=400)


@covers("60 61", "bad")
@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_needs_a_token(field: Field, route: str) -> None:
    path = f"/api/client/{field.tenant.id}/{route}"
    await field.refused("UNAUTHORIZED", "GET", path, status=401, by=ANONYMOUS)


@covers("58 60 61 73", "foreign")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("whose", ["foreign", "unknown", "malformed"])
async def test_another_tenants_figures_are_not_there(field: Field, route: str, whose: str) -> None:
    ids = {"foreign": field.foreign.id, "unknown": UNKNOWN_ID, "malformed": "nope"}
    path = f"/api/client/{ids[whose]}/{route}"
    await field.refused("NOT_FOUND", "GET", path, status=404)


async def test_an_administrator_sees_every_tenants_and_no_unknown_ones(
    field: Field, past: Past
) -> None:
    assert await field.get(past.path("savings"), by=ADMIN)
    await field.refused(
        "NOT_FOUND", "GET", f"/api/client/{UNKNOWN_ID}/savings", status=404, by=ADMIN
    )
