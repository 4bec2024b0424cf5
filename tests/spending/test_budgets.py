"""Keeping budgets, and what is told of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.spending import store
from spotplane_server.spending.store import BudgetRef

from tests.spending.world import World
from tests.support.eventually import eventually
from tests.support.plane import refused
from tests.tenants.api import admin, rows

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_each_share_is_told_of_once_however_often_it_is_looked_at(world: World) -> None:
    """At the very nano, by two servers at once; the last one is the limit itself."""
    tenant = await world.plane.tenant()
    budget = await world.create(tenant, alert_thresholds_pct=[80, 50])
    seen = []
    for nanos in (499, 1, 299, 1, 199, 1, 500):
        await world.spend(tenant, nanos)
        await world.look()
        seen.append((await world.get(budget)).state)

    half, most, all_of_it = ("threshold_reached", 50), ("threshold_reached", 80), ("exceeded", 100)
    assert await world.told(budget) == [half, most, all_of_it]
    assert seen == ["ok", *["alerting"] * 4, "exceeded", "exceeded"]
    standing = await world.get(budget)
    assert (standing.spent_nanos, standing.spent_usd, standing.spent_pct) == (1500, 1.5e-6, 150)


async def test_what_is_passed_in_one_step_is_told_of_in_order_and_to_people(world: World) -> None:
    """By itself, within a moment of the records; the tenant's notifications say it."""
    tenant = await world.plane.tenant()
    budget = await world.create(tenant, name="Research", limit_usd=0.5, hard_stop=True)

    await world.spend(tenant, 500_000_000)

    async def stopped() -> bool:
        return (await world.get(budget)).state == "stopped"

    await eventually(stopped)
    shares = [("threshold_reached", 50), ("threshold_reached", 80), ("exceeded", 100)]
    assert await world.told(budget) == [*shares, ("stopped", None)]

    async def messages() -> list[str]:
        query = "SELECT message FROM notifications WHERE tenant_id = $1 ORDER BY created_at, id"
        return [row["message"] for row in await rows(world.plane, query, UUID(tenant.id))]

    async def all_three() -> str:
        found = await messages()
        return " ".join(found) if len(found) == 3 else ""

    told = await eventually(all_three)
    assert 'The budget "Research" of the tenant is used to 50%: $0.50 of $0.50' in told
    assert "calls that do more than read are refused until" in told


async def test_records_count_in_the_period_of_their_own_time(world: World) -> None:
    """One that comes late does not count today; for a budget without end everything does."""
    tenant = await world.plane.tenant()
    today = await world.create(tenant)
    ever = await world.create(tenant, period="total")
    keys_today = await world.create(tenant, api_key_id=tenant.key_id)
    keys_ever = await world.create(tenant, api_key_id=tenant.key_id, period="total")
    start = world.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    await world.spend(tenant, 7, key_id=tenant.key_id, at=start - timedelta(microseconds=1))
    await world.spend(tenant, 5, key_id=tenant.key_id, at=start)

    assert [(await world.get(b)).spent_nanos for b in (today, keys_today, keys_ever)] == [5, 5, 12]
    total = await world.get(ever)
    assert (total.spent_nanos, total.HasField("projected_nanos")) == (12, False)
    assert not total.HasField("period_end")


async def test_budget_of_a_key_counts_that_key_and_what_it_is_rotated_to(world: World) -> None:
    """And nothing of the tenant's other keys."""
    tenant = await world.plane.tenant()
    other = await world.plane.key(tenant.id)
    budget = await world.create(tenant, api_key_id=tenant.key_id)
    await world.spend(tenant, 3, key_id=tenant.key_id)
    await world.spend(tenant, 5, key_id=other.id)

    new = await admin(world.plane)("RotateApiKey", key_id=tenant.key_id)
    await world.spend(tenant, 11, key_id=new.id)
    late = await world.create(tenant, api_key_id=tenant.key_id)

    assert [(await world.get(b)).spent_nanos for b in (budget, late)] == [14, 14]


async def test_raised_limit_is_told_of_again_when_it_is_reached(world: World) -> None:
    """What is still reached is not told twice."""
    tenant = await world.plane.tenant()
    budget = await world.create(tenant, alert_thresholds_pct=[10, 50])
    await world.spend(tenant, 600)
    await world.look()

    await world.update(budget, limit_nanos=2000)
    await world.spend(tenant, 400)
    await world.look()

    low, half = ("threshold_reached", 10), ("threshold_reached", 50)
    assert await world.told(budget) == [low, half, half]


async def test_money_is_exact_in_and_out(world: World) -> None:
    """Dollars to nine digits through their shortest text, nanos as whole numbers."""
    tenant = await world.plane.tenant()
    for given, nanos in (
        ({"limit_usd": 0.1}, 100_000_000),
        ({"limit_usd": 12.345678901}, 12_345_678_901),
        ({"limit_usd": 1e-9}, 1),
        ({"limit_usd": 1e9}, 10**18),
        ({"limit_nanos": 10**18 - 1}, 10**18 - 1),
    ):
        made = await world.call(
            "CreateBudget",
            tenant_id=tenant.id,
            name="b",
            **given,
        )
        assert (await world.get(made)).limit_nanos == nanos
    defaults = (made.period, list(made.alert_thresholds_pct), made.hard_stop)
    assert defaults == ("month", [50, 80, 100], False)


@pytest.mark.parametrize(
    ("reason", "field", "settings"),
    [
        ("MISSING_FIELD", "name", {"name": " "}),
        ("OUT_OF_RANGE", "name", {"name": "x" * 256}),
        ("MISSING_FIELD", "limit_usd", {}),
        ("OUT_OF_RANGE", "limit_usd", {"limit_usd": 0}),
        ("OUT_OF_RANGE", "limit_usd", {"limit_usd": -1}),
        ("OUT_OF_RANGE", "limit_usd", {"limit_usd": float("nan")}),
        ("OUT_OF_RANGE", "limit_usd", {"limit_usd": 1e-10}),
        ("OUT_OF_RANGE", "limit_usd", {"limit_usd": 1.1e9}),
        ("OUT_OF_RANGE", "limit_nanos", {"limit_nanos": 0}),
        ("OUT_OF_RANGE", "limit_nanos", {"limit_nanos": 10**18 + 1}),
        ("INVALID_FIELD", "limit_nanos", {"limit_nanos": 1, "limit_usd": 1}),
        ("UNKNOWN_ENUM", "period", {"limit_usd": 1, "period": "year"}),
        ("OUT_OF_RANGE", "alert_thresholds_pct", {"limit_usd": 1, "alert_thresholds_pct": [0]}),
        ("OUT_OF_RANGE", "alert_thresholds_pct", {"limit_usd": 1, "alert_thresholds_pct": [1001]}),
        (
            "OUT_OF_RANGE",
            "alert_thresholds_pct",
            {"limit_usd": 1, "alert_thresholds_pct": list(range(1, 12))},
        ),
        ("INVALID_ID", "api_key_id", {"limit_usd": 1, "api_key_id": "7"}),
        ("INVALID_ID", "tenant_id", {"limit_usd": 1, "tenant_id": "7"}),
    ],
)
async def test_bad_settings_are_refused_by_name(
    world: World, reason: str, field: str, settings: dict[str, Any]
) -> None:
    """And nothing is stored."""
    fields = {"tenant_id": str(uuid4()), "name": "b"} | settings
    async with refused(reason, field=field):
        await world.call("CreateBudget", **fields)


async def test_what_is_not_there_or_not_the_tenants_is_not_found(world: World) -> None:
    """Tenants, keys and budgets; what cannot change is refused, and a hundred are enough."""
    one, two = await world.plane.tenant(), await world.plane.tenant()
    budget = await world.create(one)
    async with refused("TENANT_NOT_FOUND"):
        await world.call("ListBudgets", tenant_id=str(uuid4()))
    async with refused("API_KEY_NOT_FOUND"):
        await world.create(two, api_key_id=one.key_id)
    for method in ("GetBudget", "DeleteBudget"):
        async with refused("BUDGET_NOT_FOUND"):
            await world.call(method, tenant_id=two.id, id=budget.id)
    async with refused("BUDGET_NOT_FOUND"):
        await world.call("UpdateBudget", tenant_id=two.id, id=budget.id, name="x")
    async with refused("NO_FIELDS"):
        await world.update(budget, period="day")
    async with refused("SEMANTIC", field="period"):
        await world.update(budget, name="x", period="month")
    async with refused("SEMANTIC", field="api_key_id"):
        await world.update(budget, name="x", api_key_id=one.key_id)
    assert (await world.update(budget, name="x", period="day")).name == "x"
    made = await asyncio.gather(*(world.create(two, limit_nanos=n + 1) for n in range(99)))
    assert len(made) == 99
    await world.create(two)
    async with refused("BUDGET_LIMIT"):
        await world.create(two)
    page = await world.call("ListBudgets", tenant_id=two.id, limit=100)
    assert (len(page.data), page.pagination.total) == (100, 100)


async def test_tenant_sees_its_own_budgets_only(world: World) -> None:
    """By any key that may read, in pages, newest first."""
    one, two = await world.plane.tenant(), await world.plane.tenant()
    reader = await world.plane.key(one.id, role="read_only")
    made = [await world.create(one, name=f"b{n}") for n in range(3)]
    await world.create(one, name="key", api_key_id=one.key_id)
    await world.create(two)
    metadata = (("authorization", f"Bearer {reader.key}"),)

    first = await world.call("ListOwnBudgets", metadata, limit=2)
    token = first.pagination.next_page_token
    second = await world.call("ListOwnBudgets", metadata, limit=2, page_token=token)
    of_key = await world.call("ListOwnBudgets", metadata, api_key_id=one.key_id)
    of_nobody = await world.call("ListOwnBudgets", metadata, api_key_id=str(uuid4()))

    assert [b.name for b in (*first.data, *second.data)] == ["key", "b2", "b1", "b0"]
    assert second.data[-1].id == made[0].id
    assert first.pagination.total == 4
    assert [b.name for b in of_key.data] == ["key"]
    assert list(of_nobody.data) == []


async def test_changes_are_audited_with_the_fields_that_changed(world: World) -> None:
    """One row for each change."""
    tenant = await world.plane.tenant()
    budget = await world.create(tenant)
    await world.update(budget, limit_nanos=5, name="b")
    await world.call("DeleteBudget", tenant_id=tenant.id, id=budget.id)

    found = await rows(
        world.plane,
        "SELECT action, before::text, after::text FROM audit_logs WHERE resource_id = $1"
        " ORDER BY occurred_at",
        budget.id,
    )
    assert [row["action"] for row in found] == ["budget.create", "budget.update", "budget.delete"]
    changed = found[1]["before"], found[1]["after"]
    assert changed == ('{"limit_nanos": 1000}', '{"limit_nanos": 5}')


async def test_any_number_of_budgets_is_read_by_one_statement(world: World) -> None:
    """Of tenants and of keys, of every period."""
    tenant = await world.plane.tenant()
    made = [
        await world.create(tenant, period=period, api_key_id=key)
        for period in ("day", "week", "month", "total")
        for key in (None, tenant.key_id)
    ]
    await world.spend(tenant, 9, key_id=tenant.key_id)
    named = [BudgetRef(UUID(b.tenant_id), UUID(b.id)) for b in made]
    ran: list[Any] = []
    async with world.plane.db.transaction(ALL_TENANTS) as conn:
        await store.load_statuses(conn, named[:1], world.clock.now())  # learns types
        conn.add_query_logger(ran.append)
        found = await store.load_statuses(conn, named, world.clock.now())
        conn.remove_query_logger(ran.append)

    assert [standing.spent_nanos for standing in found] == [9] * len(made)
    assert len(ran) == 1
