"""Legacy API of prices, pools and simulated switches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.prices import rules
from spotplane_server.prices import store as market_store

from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.support.clock import FakeClock
from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.link import by_hand, run_job

A, B, C = (f"{TYPE}.{zone}" for zone in ZONES)
INSTANCE: Final = "i-0market"
PRICING: Final = f"/api/client/instances/{INSTANCE}"


@dataclass
class Told:
    """An agent in the first zone on spot."""

    field: Field
    agent_id: str
    now: datetime

    async def report(self, body: Any, **how: Any) -> Any:
        """Report prices, and wait until they are clean."""
        reply = await self.field.post(f"/api/agents/{self.agent_id}/pricing-report", body, **how)
        await run_job(self.field.plane, "price-pipeline")
        return reply

    async def clean(self) -> dict[str, tuple[float, str]]:
        """Newest clean price in dollars, and its source, by pool."""
        async with self.field.plane.db.connection(ALL_TENANTS) as conn:
            rows = await conn.fetch(
                "SELECT pool_id, price_nanousd, source FROM clean_prices ORDER BY bucket_at"
            )
        return {row["pool_id"]: (row["price_nanousd"] / 1e9, row["source"]) for row in rows}

    async def on_demand(self) -> dict[str, float]:
        """Newest on-demand price in dollars by type."""
        async with self.field.plane.db.connection(ALL_TENANTS) as conn:
            rows = await conn.fetch("SELECT instance_type, price_nanousd FROM on_demand_prices")
        return {row["instance_type"]: row["price_nanousd"] / 1e9 for row in rows}


@pytest.fixture
async def told(field: Field, clock: FakeClock) -> AsyncIterator[Told]:
    """An agent that has reported nothing yet."""
    async with by_hand(field.plane) as hand:
        hand.metadata = field.tenant.metadata
        registered = await hand.register(INSTANCE, zone=ZONES[0])
        yield Told(field, registered.agent_id, clock.now())


def shape_a(at: datetime, **pricing: Any) -> dict[str, Any]:
    """Return a report of loop agents."""
    return {
        "instance": {
            "instance_id": INSTANCE,
            "instance_type": TYPE,
            "region": REGION,
            "az": ZONES[0],
            "mode": "spot",
            "pool_id": A,
        },
        "pricing": {
            "on_demand_price": 1.006,
            "current_spot_price": 0.31,
            "cheapest_pool": {"pool_id": B, "price": 0.29},
            "spot_pools": [
                {"pool_id": A, "instance_type": TYPE, "az": ZONES[0], "price": 0.31},
                {"pool_id": B, "instance_type": TYPE, "az": ZONES[1], "price": 0.29},
            ],
            "collected_at": at.isoformat(),
        }
        | pricing,
    }


@covers("55", "good")
async def test_report_of_loop_agents_becomes_clean(told: Told) -> None:
    reply = await told.report(shape_a(told.now))

    assert reply == {"success": True, "records_inserted": 3}
    assert await told.clean() == {A: (0.31, "primary"), B: (0.29, "primary")}
    assert await told.on_demand() == {TYPE: 1.006}
    async with told.field.plane.db.connection(ALL_TENANTS) as conn:
        row = await conn.fetchrow(
            "SELECT spot_nanousd, on_demand_nanousd FROM instance_prices WHERE instance_id = $1",
            INSTANCE,
        )
    assert row is not None
    assert tuple(row) == (310_000_000, 1_006_000_000)


@pytest.mark.parametrize(
    ("body", "clean", "on_demand", "count"),
    [
        pytest.param(
            {
                "instance_type": TYPE,
                "region": REGION,
                "az": ZONES[1],
                "spot_price": "0.25",
                "ondemand_price": 1.2,
            },
            {B: 0.25},
            {TYPE: 1.2},
            2,
            id="b-flat",
        ),
        pytest.param(
            {
                "instance": {"instance_id": INSTANCE, "current_mode": "spot", "current_pool_id": A},
                "on_demand_price": {"price": 1.1},
                "spot_pools": [{"pool_id": C, "price": 0.5}, {"az": ZONES[1], "price": 0.4}],
            },
            {B: 0.4, C: 0.5},
            {TYPE: 1.1},
            3,
            id="c-price-object",
        ),
        pytest.param(
            {
                "pricing_data_array": [
                    {"instance_type": TYPE, "az": ZONES[2], "pool_id": C, "spot_price": 0.5},
                    {"instance_type": TYPE, "price_type": "ondemand", "price": 1.3},
                ]
            },
            {C: 0.5},
            {TYPE: 1.3},
            2,
            id="d-mixed-list",
        ),
        pytest.param(
            {
                "instance": {"instance_id": INSTANCE, "instance_type": TYPE},
                "spot_prices": [
                    {"availability_zone": ZONES[1], "price": 0.4},
                    {"id": C, "price": 1},
                ],
            },
            {B: 0.4, C: 1.0},
            {},
            2,
            id="e-spot-prices",
        ),
        pytest.param(
            {
                "instance": {"instance_id": INSTANCE},
                "pricing": {
                    "current_spot_price": 0.33,
                    "cheapest_pool": {"pool_id": B, "price": 0.2},
                },
            },
            {A: 0.33, B: 0.2},
            {},
            2,
            id="own-pool-unnamed",
        ),
    ],
)
async def test_every_shape_of_a_report_is_read(
    told: Told, body: Any, clean: dict[str, float], on_demand: dict[str, float], count: int
) -> None:
    assert await told.report(body) == {"success": True, "records_inserted": count}

    assert {pool: price for pool, (price, _) in (await told.clean()).items()} == clean
    assert await told.on_demand() == on_demand


@covers("55", "bad")
@pytest.mark.parametrize(
    "price", [0, -1, 100.01, None, "much", "NaN", "1e400", True, [1], {}, 0.0000001]
)
async def test_bad_price_is_dropped_and_counted(told: Told, price: Any) -> None:
    body = shape_a(told.now, current_spot_price=None, cheapest_pool=None, on_demand_price=None)
    body["pricing"]["spot_pools"].append({"pool_id": C, "price": price})

    assert await told.report(body) == {"success": True, "records_inserted": 2}

    assert C not in await told.clean()
    async with told.field.plane.db.connection(ALL_TENANTS) as conn:
        counts = await conn.fetchrow("SELECT accepted, dropped FROM price_reports")
    assert counts is not None
    assert tuple(counts) == (2, 1)


@pytest.mark.parametrize(
    ("off", "believed"),
    [
        (timedelta(minutes=4), True),
        (timedelta(minutes=6), False),
        (timedelta(hours=-23), True),
        (timedelta(hours=-25), False),
    ],
)
async def test_clock_of_an_agent_is_believed_within_bounds(
    told: Told, off: timedelta, believed: bool
) -> None:
    await told.report(shape_a(told.now + off))

    async with told.field.plane.db.connection(ALL_TENANTS) as conn:
        seen = await conn.fetchval("SELECT max(bucket_at) FROM clean_prices")
    expected = rules.bucket(told.now + off) if believed else rules.bucket(told.now)
    assert abs(seen - expected) <= rules.BUCKET


async def test_report_sent_again_counts_once(told: Told) -> None:
    for _ in range(2):
        await told.report(shape_a(told.now))

    jobs = (await told.field.get("/api/admin/consolidation-jobs", by=ADMIN))["jobs"]
    cleaned = [job for job in jobs if job["job"] == "price-pipeline"]
    assert sum(job["duplicates_removed"] for job in cleaned) == 2


@covers("55", "foreign")
async def test_reports_for_another_tenants_agent_are_rejected(told: Told) -> None:
    for agent in (told.agent_id, UNKNOWN_ID, "nonsense"):
        await told.field.refused(
            "NOT_FOUND",
            "POST",
            f"/api/agents/{agent}/pricing-report",
            shape_a(told.now),
            by=told.field.foreign,
            status=404,
        )


@covers("25", "good")
async def test_pricing_of_an_instance(told: Told) -> None:
    body = shape_a(told.now)
    body["pricing"]["spot_pools"].append(
        {"pool_id": C, "price": 0.2, "timestamp": (told.now - timedelta(hours=2)).isoformat()}
    )
    await told.report(body)

    assert await told.field.get(f"{PRICING}/pricing") == {
        "currentMode": "spot",
        "currentPool": {"id": A, "name": f"{TYPE} ({ZONES[0]})", "az": ZONES[0]},
        "onDemand": {"name": "On-Demand", "price": 1.006},
        "pools": [
            {"id": B, "name": f"{TYPE} ({ZONES[1]})", "az": ZONES[1], "price": 0.29,
             "savings": 71.17},
            {"id": A, "name": f"{TYPE} ({ZONES[0]})", "az": ZONES[0], "price": 0.31,
             "savings": 69.18},
            {"id": C, "name": f"{TYPE} ({ZONES[2]})", "az": ZONES[2], "price": 0, "savings": 0},
        ],
    }  # fmt: skip


async def test_pricing_without_any_report(told: Told) -> None:
    reply = await told.field.get(f"{PRICING}/pricing")

    assert reply["onDemand"] == {"name": "On-Demand", "price": 0.0416}
    assert reply["pools"] == []


@covers("25 27 74", "bad")
@pytest.mark.parametrize("what", ["pricing", "price-history", "pool-volatility"])
async def test_unknown_instance_is_not_found(told: Told, what: str) -> None:
    await told.field.refused("NOT_FOUND", "GET", f"/api/client/instances/i-none/{what}", status=404)


@covers("25 27 74 76", "foreign")
@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("GET", "pricing"),
        ("GET", "price-history"),
        ("GET", "pool-volatility"),
        ("POST", "simulate-switch"),
    ],
)
async def test_pricing_of_another_tenants_instance_is_not_found(
    told: Told, method: str, what: str
) -> None:
    body = {"target_type": "ondemand"} if method == "POST" else None
    await told.field.refused(
        "NOT_FOUND", method, f"{PRICING}/{what}", body, by=told.field.foreign, status=404
    )


@covers("27", "good")
async def test_price_history_has_a_member_a_pool(told: Told) -> None:
    hour = told.now.replace(minute=0, second=0, microsecond=0)
    earlier = hour - timedelta(hours=2)
    prices = [(A, 0.3, earlier), (A, 0.4, earlier + timedelta(minutes=5)), (B, 0.2, hour)]
    await told.report(
        {
            "on_demand_price": 1.0,
            "timestamp": earlier.isoformat(),
            "spot_pools": [
                {"pool_id": pool, "price": price, "timestamp": at.isoformat()}
                for pool, price, at in prices
            ],
        }
    )

    reply = await told.field.get(f"{PRICING}/price-history?hours=3&days=90")

    assert reply == {
        "data": [
            {"time": _z(earlier), "onDemand": 1, f"pool_{A}": 0.35, f"pool_{B}": None},
            {"time": _z(hour), "onDemand": 1, f"pool_{A}": None, f"pool_{B}": 0.2},
        ],
        "pools": [
            {"id": A, "name": f"{TYPE} ({ZONES[0]})", "az": ZONES[0], "key": f"pool_{A}"},
            {"id": B, "name": f"{TYPE} ({ZONES[1]})", "az": ZONES[1], "key": f"pool_{B}"},
        ],
        "onDemandPrice": 1,
    }
    assert (await told.field.get(f"{PRICING}/price-history?hours=1"))["data"] == reply["data"][1:]
    by_day = await told.field.get(f"{PRICING}/price-history?days=2&interval=day")
    assert {row["time"][11:] for row in by_day["data"]} == {"00:00:00Z"}


async def test_price_history_without_pools_is_empty(told: Told) -> None:
    reply = await told.field.get(f"{PRICING}/price-history")

    assert reply == {"data": [], "pools": [], "onDemandPrice": 0.0416}


@pytest.mark.parametrize("query", ["days=0", "days=91", "hours=2161", "interval=week", "days=x"])
async def test_range_of_a_price_history_is_bounded(told: Told, query: str) -> None:
    reply = await told.field.refused(
        "VALIDATION_ERROR", "GET", f"{PRICING}/price-history?{query}", status=400
    )
    assert reply["details"][0]["field"] == query.partition("=")[0]


@covers("30", "good")
async def test_history_of_where_the_agent_serves(told: Told) -> None:
    hour = told.now.replace(minute=0, second=0, microsecond=0)
    await told.report(shape_a(told.now))

    reply = await told.field.get("/api/client/pricing-history?days=1")

    assert reply == {
        "history": [
            {
                "timestamp": _z(hour),
                "ondemand_price": 1.006,
                "spot_pools": [
                    {"pool_id": A, "az": ZONES[0], "price": 0.31},
                    {"pool_id": B, "az": ZONES[1], "price": 0.29},
                ],
            }
        ],
        "days": 1,
        "data_points": 1,
        "agent_id": told.agent_id,
        "instance_type": TYPE,
        "region": REGION,
    }
    named = await told.field.get(f"/api/client/pricing-history?days=1&agent_id={told.agent_id}")
    assert named == reply


@covers("30", "bad")
async def test_history_of_an_agent_is_bounded(told: Told) -> None:
    await told.field.refused(
        "VALIDATION_ERROR", "GET", "/api/client/pricing-history?days=31", status=400
    )


@covers("30", "foreign")
async def test_history_of_another_tenants_agent_is_not_found(told: Told) -> None:
    for query in ("", f"?agent_id={told.agent_id}"):
        await told.field.refused(
            "NOT_FOUND",
            "GET",
            f"/api/client/pricing-history{query}",
            by=told.field.foreign,
            status=404,
        )


@covers("70", "good")
async def test_statistics_of_all_pools(told: Told) -> None:
    await told.report(shape_a(told.now))
    async with told.field.plane.db.transaction(ALL_TENANTS) as conn:
        await market_store.record_interruption(conn, B, "i-gone", told.now)

    assert await told.field.get("/api/admin/pools/statistics", by=ADMIN) == {
        "overall": {"totalInstances": 1, "totalRegions": 1, "totalZones": 2, "totalTypes": 1},
        "byRegion": [
            {"region": REGION, "availabilityZone": ZONES[0], "instanceCount": 1, "typeVariety": 1,
             "averagePrice": 0.31},
            {"region": REGION, "availabilityZone": ZONES[1], "instanceCount": 0, "typeVariety": 0,
             "averagePrice": 0.29},
        ],
        "byInstanceType": [
            {"instanceType": TYPE, "instanceCount": 1, "averagePrice": 0.3, "region": REGION}
        ],
        "interruptions": [
            {"date": f"{told.now:%Y-%m-%d}", "count": 1, "instanceType": TYPE}
        ],
        "total_pools": 2,
        "active_pools": 2,
        "inactive_pools": 0,
        "total": 2,
        "active": 2,
        "regions": [
            {"region": REGION, "pools": 2, "average_price": 0.3, "cheapest_pool": B,
             "cheapest_price": 0.29}
        ],
        "instance_types": [
            {"instance_type": TYPE, "pools_available": 2, "avg_spot_price": 0.3,
             "ondemand_price": 1.006}
        ],
    }  # fmt: skip


@covers("70 X24", "bad")
@covers("70 X24", "foreign")
@pytest.mark.parametrize("path", ["pools/statistics", "consolidation-jobs"])
async def test_only_administrators_see_all_pools_and_jobs(told: Told, path: str) -> None:
    await told.field.refused("FORBIDDEN", "GET", f"/api/admin/{path}", status=403)


@covers("74", "good")
async def test_volatility_of_pools(told: Told) -> None:
    at = rules.bucket(told.now)
    series = {A: (0.3, 0.3), B: (0.2, 0.4), C: (0.5,)}
    await told.report(
        {
            "spot_pools": [
                {"pool_id": pool, "price": price, "timestamp": (at - n * rules.BUCKET).isoformat()}
                for pool, told_prices in series.items()
                for n, price in enumerate(told_prices)
            ]
        }
    )
    async with told.field.plane.db.transaction(ALL_TENANTS) as conn:
        await market_store.record_interruption(conn, B, "i-gone", told.now)

    assert await told.field.get(f"{PRICING}/pool-volatility") == {
        "current_pool": {
            "pool_id": A,
            "current_price": 0.3,
            "volatility_score": 0,
            "volatility_category": "very_low",
            "interruption_rate_24h": 0,
            "price_stability_7d": 1,
        },
        "alternative_pools": [
            {
                "pool_id": B,
                "current_price": 0.2,
                "volatility_score": 0.333333,
                "volatility_category": "high",
                "interruption_rate_24h": 1,
                "price_stability_7d": 0.666667,
                "recommendation": "best",
            },
            {
                "pool_id": C,
                "current_price": 0.5,
                "volatility_score": None,
                "volatility_category": "unknown",
                "interruption_rate_24h": 0,
                "price_stability_7d": None,
                "recommendation": None,
            },
        ],
    }


@covers("76", "good")
async def test_simulated_switch(told: Told) -> None:
    await told.report(shape_a(told.now))

    reply = await told.field.post(f"{PRICING}/simulate-switch", {"target_pool": B})

    assert reply == {
        "simulation": {
            "current_price": 0.31,
            "target_price": 0.29,
            "hourly_savings": 0.02,
            "daily_savings": 0.48,
            "monthly_savings": 14.4,
            "estimated_downtime_seconds": 12,
            "confidence": 1,
            "volatility_risk": "unknown",
            "interruption_probability_24h": 0,
            "recommendation": "strongly_recommended",
        }
    }
    other = await told.field.post(f"{PRICING}/simulate-switch", {"target_type": "ondemand"})
    assert other["simulation"]["hourly_savings"] == -0.696
    assert other["simulation"]["recommendation"] == "not_recommended"


@covers("76", "bad")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"pool_id": f"{TYPE}.us-east-1z"}, "UNKNOWN_POOL"),
        ({"target_type": "spot"}, "POOL_REQUIRED"),
        ({"target_type": "moon"}, "VALIDATION_ERROR"),
    ],
)
async def test_simulated_switch_needs_a_target(told: Told, body: Any, code: str) -> None:
    await told.field.refused(code, "POST", f"{PRICING}/simulate-switch", body, status=400)


@covers("X24", "good")
async def test_pipeline_runs_are_listed(told: Told) -> None:
    await told.report(shape_a(told.now))

    reply = await told.field.get("/api/admin/consolidation-jobs?days=1", by=ADMIN)

    cleaned = [job for job in reply["jobs"] if job["job"] == "price-pipeline"]
    assert [list(job) for job in cleaned] == [
        ["id", "job", "status", "started_at", "completed_at", "records_processed",
         "duplicates_removed", "gaps_interpolated", "backfills_added", "error"]
    ] * len(cleaned)  # fmt: skip
    assert sum(job["records_processed"] for job in cleaned) == 2
    assert {(job["status"], job["error"]) for job in cleaned} == {("completed", None)}
    assert (reply["total"], reply["days"]) == (len(reply["jobs"]), 1)
    await told.field.refused(
        "VALIDATION_ERROR", "GET", "/api/admin/consolidation-jobs?days=91", by=ADMIN, status=400
    )


def _z(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
