"""Instance types: every call, and every refusal."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from spotplane.v1 import instance_type_pb2
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.catalog.world import Catalog, put_instance
from tests.support.plane import ADMIN, Plane, refusal, refused

SPOT: dict[str, Any] = {
    "price_per_hour": 0.526,
    "spot_price_per_hour": 0.158,
    "supports_spot": True,
}


async def test_new_type_has_the_documented_defaults(catalog: Catalog) -> None:
    """Named as its provider names it, available, without spot, without prices."""
    made = await catalog.type("g5.xlarge")
    assert made.id >= 1
    assert (made.instance_name, made.available, made.is_available) == ("g5.xlarge", True, True)
    assert (made.supports_spot, made.spot_price_defaulted) == (False, False)
    absent: tuple[Any, ...] = ("price_per_hour", "spot_price_per_hour", "gpu_compute_capability")
    assert not any(made.HasField(name) for name in absent)
    assert await catalog.get_type(made.id) == made


async def test_creating_answers_201(catalog: Catalog) -> None:
    """The REST doors are told so."""
    call = catalog.types.CreateInstanceType(
        instance_type_pb2.CreateInstanceTypeRequest(
            provider="aws",
            instance_type="t",
            gpu_model="g",
            vcpu_count=1,
            memory_gb=0.25,
            gpu_count=1,
            gpu_memory_gb=1,
        ),
        metadata=ADMIN,
    )
    await call
    assert (await call.initial_metadata())["x-spotplane-http-status"] == "201"


@pytest.mark.parametrize("price", [0.526, 0.1, 0.000001, 123456.789012, 999999.999999, 0.0])
async def test_prices_come_back_exactly_as_sent(catalog: Catalog, price: float) -> None:
    """Through a decimal in the database, without a digit more or less."""
    made = await catalog.type(price_per_hour=price, spot_price_per_hour=price)
    assert (made.price_per_hour, made.spot_price_per_hour) == (price, price)
    async with catalog.plane.db.connection(ALL_TENANTS) as conn:
        stored = await conn.fetchval("SELECT price_per_hour::text FROM instance_types")
    assert float(stored) == price


@pytest.mark.parametrize(
    ("members", "reason", "field"),
    [
        ({"provider": "on-prem"}, "UNKNOWN_ENUM", "provider"),
        ({"provider": ""}, "MISSING_FIELD", "provider"),
        ({"instance_type": " "}, "MISSING_FIELD", "instance_type"),
        ({"instance_type": "x" * 101}, "OUT_OF_RANGE", "instance_type"),
        ({"gpu_model": ""}, "MISSING_FIELD", "gpu_model"),
        ({"vcpu_count": 0}, "MISSING_FIELD", "vcpu_count"),
        ({"vcpu_count": -1}, "OUT_OF_RANGE", "vcpu_count"),
        ({"gpu_count": 0}, "MISSING_FIELD", "gpu_count"),
        ({"gpu_count": -8}, "OUT_OF_RANGE", "gpu_count"),
        ({"memory_gb": 0}, "MISSING_FIELD", "memory_gb"),
        ({"memory_gb": -1}, "OUT_OF_RANGE", "memory_gb"),
        ({"memory_gb": 1.001}, "OUT_OF_RANGE", "memory_gb"),
        ({"memory_gb": 1e9}, "OUT_OF_RANGE", "memory_gb"),
        ({"gpu_memory_gb": 0}, "MISSING_FIELD", "gpu_memory_gb"),
        ({"price_per_hour": -0.01}, "OUT_OF_RANGE", "price_per_hour"),
        ({"price_per_hour": 0.0000001}, "OUT_OF_RANGE", "price_per_hour"),
        ({"price_per_hour": 1.2345678}, "OUT_OF_RANGE", "price_per_hour"),
        ({"price_per_hour": 1_000_000}, "OUT_OF_RANGE", "price_per_hour"),
        ({"price_per_hour": float("inf")}, "OUT_OF_RANGE", "price_per_hour"),
        ({"spot_price_per_hour": 0.1 + 0.2}, "OUT_OF_RANGE", "spot_price_per_hour"),
        ({"gpu_compute_capability": "x" * 21}, "OUT_OF_RANGE", "gpu_compute_capability"),
        ({"price_per_hour": 1, "spot_price_per_hour": 1.01}, "SEMANTIC", "spot_price_per_hour"),
    ],
)
async def test_malformed_type_is_refused_by_field(
    catalog: Catalog, members: dict[str, Any], reason: str, field: str
) -> None:
    """The refusal names what is at fault, and nothing is stored."""
    async with refused(reason, field=field):
        await catalog.type(**members)
    assert await catalog.trail() == ([], [])


async def test_name_is_unique_within_its_provider_until_deleted(catalog: Catalog) -> None:
    """Another provider may use it; so may a new type after deletion."""
    first = await catalog.type("same")
    await catalog.type("same", provider="gcp")
    async with refused("INSTANCE_TYPE_EXISTS"):
        await catalog.type("same")
    assert (await catalog.delete_type(first.id)).status == "deleted"
    assert (await catalog.type("same")).id != first.id


@pytest.mark.parametrize("sent", [{}, {"spot_price_per_hour": 0.0}])
async def test_spot_without_a_price_is_defaulted(catalog: Catalog, sent: dict[str, Any]) -> None:
    """0.3 times on-demand, marked as such, until the operator sends a price."""
    made = await catalog.type(price_per_hour=0.526, supports_spot=True, **sent)
    assert (made.spot_price_per_hour, made.spot_price_defaulted) == (0.1578, True)
    followed = await catalog.change_type(made.id, price_per_hour=1.006)
    assert (followed.spot_price_per_hour, followed.spot_price_defaulted) == (0.3018, True)
    own = await catalog.change_type(made.id, spot_price_per_hour=0.302)
    assert (own.spot_price_per_hour, own.spot_price_defaulted) == (0.302, False)
    kept = await catalog.change_type(made.id, price_per_hour=2)
    assert (kept.spot_price_per_hour, kept.spot_price_defaulted) == (0.302, False)
    reset = await catalog.change_type(made.id, spot_price_per_hour=0)
    assert (reset.spot_price_per_hour, reset.spot_price_defaulted) == (0.6, True)


async def test_update_keeps_spot_at_or_below_on_demand(catalog: Catalog) -> None:
    """From whichever side it is tried; what is stored stays."""
    made = await catalog.type(**SPOT)
    async with refused("SEMANTIC", field="spot_price_per_hour"):
        await catalog.change_type(made.id, spot_price_per_hour=0.527)
    async with refused("SEMANTIC", field="price_per_hour"):
        await catalog.change_type(made.id, price_per_hour=0.157999)
    lowered = await catalog.change_type(made.id, price_per_hour=0.1, spot_price_per_hour=0.05)
    assert (lowered.price_per_hour, lowered.spot_price_per_hour) == (0.1, 0.05)


async def test_update_changes_what_was_sent(catalog: Catalog) -> None:
    """The rest stays."""
    made = await catalog.type(**SPOT, metadata={"a": 1})
    after = await catalog.change_type(made.id, available=False, instance_name="T4 small")
    assert (after.available, after.instance_name) == (False, "T4 small")
    assert (after.price_per_hour, after.metadata) == (0.526, made.metadata)


async def test_hardware_may_be_repeated_but_not_changed(catalog: Catalog) -> None:
    """Repeating it alone is no update; a different value is impossible."""
    made = await catalog.type(memory_gb=16.5)
    same: dict[str, Any] = {
        "provider": "aws",
        "instance_type": "g5.xlarge",
        "gpu_model": "NVIDIA A10G",
        "gpu_count": 1,
        "gpu_memory_gb": 24,
        "gpu_compute_capability": "",
        "vcpu_count": 4,
        "memory_gb": 16.5,
    }
    assert (await catalog.change_type(made.id, available=False, **same)).available is False
    async with refused("NO_FIELDS"):
        await catalog.change_type(made.id, **same)
    for field, value in same.items():
        different = value + 1 if isinstance(value, int | float) else f"{value}x"
        async with refused("SEMANTIC", field=field):
            await catalog.change_type(made.id, available=True, **{field: different})
    assert (await catalog.get_type(made.id)).available is False


async def test_path_ids_are_checked_and_looked_up(catalog: Catalog) -> None:
    """Malformed: 400; unknown or deleted: 404; the second deletion too."""
    gone = await catalog.type()
    await catalog.delete_type(gone.id)
    for call in (catalog.get_type, catalog.delete_type, catalog.pricing):
        for bad in ("0", "-1", "1.5", "abc", "", "2147483648", "١"):  # noqa: RUF001
            async with refused("INVALID_ID", field="id"):
                await call(bad)
        for unknown in (2147483647, gone.id):
            async with refused("INSTANCE_TYPE_NOT_FOUND"):
                await call(unknown)
    async with refused("INSTANCE_TYPE_NOT_FOUND"):
        await catalog.change_type(gone.id, available=True)
    async with refused("INSTANCE_TYPE_NOT_FOUND"):
        await catalog.associate(gone.id, "us-east-1")
    async with refused("INVALID_ID", field="id"):
        await catalog.associate("x", "us-east-1")


async def test_type_in_use_is_not_deleted(catalog: Catalog, plane: Plane) -> None:
    """Live instances of it are counted; ending ones and those of others are not."""
    made, other = await catalog.type(), await catalog.type("other")
    tenant = await plane.tenant()
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for status in ("launching", "running_primary", "terminating", "terminated"):
            await put_instance(conn, tenant.id, type_id=made.id, status=status)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await catalog.delete_type(made.id)
    said = refusal(raised.value)
    assert (said.reason, said.metadata["node_count"]) == ("INSTANCE_TYPE_IN_USE", "2")
    await catalog.delete_type(other.id)


async def test_association_counts_what_is_new_and_what_was_there(catalog: Catalog) -> None:
    """A code sent twice counts once; a repeat changes the terms."""
    made = await catalog.type()
    for code in ("a-1", "b-1", "c-1"):
        await catalog.region(code)
    first = await catalog.associate(made.id, "a-1", "b-1", "a-1")
    assert (first.status, first.inserted, first.updated) == ("success", 2, 0)
    second = await catalog.associate(
        made.id, "b-1", "c-1", is_available=False, stock_status="limited"
    )
    assert (second.inserted, second.updated) == (1, 1)
    rows = {p.region_code: p for p in (await catalog.pricing(made.id)).regional_pricing}
    assert {c: (p.is_available, p.stock_status) for c, p in rows.items()} == {
        "a-1": (True, "available"),
        "b-1": (False, "limited"),
        "c-1": (False, "limited"),
    }


async def test_wrong_codes_are_named_one_by_one_and_nothing_is_stored(catalog: Catalog) -> None:
    """Unknown ones, deleted ones and another provider's, each by its place."""
    made = await catalog.type()
    await catalog.region("good-1")
    await catalog.region("gcp-1", provider="gcp")
    await catalog.delete_region((await catalog.region("gone-1")).id)
    audits, events = await catalog.trail_counts()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await catalog.associate(made.id, "nope", "good-1", "gcp-1", "gone-1", "nope")
    said = refusal(raised.value)
    assert (said.reason, said.http_status) == ("SEMANTIC", 422)
    assert list(said.fields) == [f"region_codes[{i}]" for i in (0, 2, 3, 4)]
    assert not (await catalog.pricing(made.id)).regional_pricing
    assert await catalog.trail_counts() == (audits, events)


@pytest.mark.parametrize(
    ("codes", "terms", "reason", "field"),
    [
        ([], {}, "MISSING_FIELD", "region_codes"),
        (["a-1"] * 501, {}, "OUT_OF_RANGE", "region_codes"),
        (["a-1", " "], {}, "MISSING_FIELD", "region_codes[1]"),
        (["a\x00"], {}, "INVALID_FIELD", "region_codes[0]"),
        (["a-1"], {"stock_status": "some"}, "UNKNOWN_ENUM", "stock_status"),
    ],
)
async def test_malformed_association_is_refused_by_field(
    catalog: Catalog, codes: list[str], terms: dict[str, Any], reason: str, field: str
) -> None:
    """1 to 500 codes, and a closed set of stocks."""
    made = await catalog.type()
    async with refused(reason, field=field):
        await catalog.associate(made.id, *codes, **terms)


async def test_pricing_compares_active_regions(catalog: Catalog) -> None:
    """By name and code, out of stock included, offline ones not; exact to 6 decimals."""
    made = await catalog.type(**SPOT)
    await catalog.region("z-1", name="Alpha", pricing_multiplier=1.1, city="Dublin")
    await catalog.region("a-1", name="Beta", pricing_multiplier=0.7)
    await catalog.region("b-1", name="Alpha")
    off = await catalog.region("off-1", name="Off")
    await catalog.associate(made.id, "z-1", "a-1", "b-1", "off-1")
    await catalog.associate(made.id, "a-1", stock_status="out_of_stock")
    await catalog.change_region(off.id, available=False)

    answer = await catalog.pricing(made.id)
    rows = answer.regional_pricing
    assert [row.region_code for row in rows] == ["b-1", "z-1", "a-1"]
    assert [row.on_demand_price for row in rows] == [0.526, 0.5786, 0.3682]
    assert [row.spot_price for row in rows] == [0.158, 0.1738, 0.1106]
    assert [row.stock_status for row in rows] == ["available", "available", "out_of_stock"]
    assert rows[1].location == "Dublin"
    assert rows[0].spot_savings_pct == pytest.approx(69.96197718631179, abs=1e-12)
    assert (answer.base_pricing.on_demand_price, answer.base_pricing.spot_price) == (0.526, 0.158)
    spread = answer.pricing_range.on_demand
    assert (spread.min, spread.max) == (0.3682, 0.5786)
    assert spread.avg == pytest.approx((0.526 + 0.5786 + 0.3682) / 3, abs=1e-15)


async def test_pricing_without_prices_has_no_range(catalog: Catalog) -> None:
    """Absent, not zero."""
    made = await catalog.type()
    await catalog.region("a-1")
    await catalog.associate(made.id, "a-1")
    answer = await catalog.pricing(made.id)
    (row,) = answer.regional_pricing
    assert not any(row.HasField(f) for f in ("on_demand_price", "spot_price", "spot_savings_pct"))
    for spread in (answer.pricing_range.on_demand, answer.pricing_range.spot):
        assert not any(spread.HasField(f) for f in ("min", "max", "avg"))
    assert not answer.base_pricing.HasField("on_demand_price")
