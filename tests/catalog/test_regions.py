"""Regions: every call, and every refusal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf import json_format
from spotplane.v1 import region_pb2
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.catalog.world import Catalog, put_instance
from tests.support.plane import ADMIN, Plane, bearer, refusal, refused

UNKNOWN = str(uuid4())


async def test_new_region_has_the_documented_defaults(catalog: Catalog) -> None:
    """Available, multiplier 1, no limit of its own; aliases agree."""
    region = await catalog.region("us-west-2", name=" Oregon ")
    assert (region.code, region.name, region.status) == ("us-west-2", "Oregon", "active")
    assert (region.available, region.is_available, region.pricing_multiplier) == (True, True, 1.0)
    assert (region.region_code, region.region_name) == (region.code, region.name)
    assert region.location == ""
    assert not region.HasField("max_nodes")
    assert await catalog.get_region(region.id) == region


async def test_creating_answers_201(catalog: Catalog) -> None:
    """The REST doors are told so."""
    call = catalog.regions.CreateRegion(
        region_pb2.CreateRegionRequest(code="us-1", name="x", provider="gcp"), metadata=ADMIN
    )
    await call
    assert (await call.initial_metadata())["x-spotplane-http-status"] == "201"


async def test_unavailable_region_starts_offline(catalog: Catalog) -> None:
    """And its members come back as they were sent."""
    region = await catalog.region(
        available=False,
        city="Dublin",
        country="Ireland",
        pricing_multiplier=1.0501,
        max_nodes=0,
        metadata={"tier": {"a": [1, 2.5, None, True]}},
    )
    assert (region.status, region.available) == ("offline", False)
    assert region.location == "Dublin, Ireland"
    assert region.pricing_multiplier == 1.0501
    assert (region.HasField("max_nodes"), region.max_nodes) == (True, 0)
    assert json_format.MessageToDict(region.metadata) == {"tier": {"a": [1, 2.5, None, True]}}


@pytest.mark.parametrize(
    ("members", "reason", "field"),
    [
        ({"code": ""}, "MISSING_FIELD", "code"),
        ({"code": "x"}, "OUT_OF_RANGE", "code"),
        ({"code": "x" * 51}, "OUT_OF_RANGE", "code"),
        ({"code": "US_EAST"}, "INVALID_FIELD", "code"),
        ({"name": "  "}, "MISSING_FIELD", "name"),
        ({"name": "x" * 256}, "OUT_OF_RANGE", "name"),
        ({"name": "a\x00b"}, "INVALID_FIELD", "name"),
        ({"provider": ""}, "MISSING_FIELD", "provider"),
        ({"provider": "on-prem"}, "UNKNOWN_ENUM", "provider"),
        ({"pricing_multiplier": 0.0}, "OUT_OF_RANGE", "pricing_multiplier"),
        ({"pricing_multiplier": -1.0}, "OUT_OF_RANGE", "pricing_multiplier"),
        ({"pricing_multiplier": 100.0001}, "OUT_OF_RANGE", "pricing_multiplier"),
        ({"pricing_multiplier": 1.00001}, "OUT_OF_RANGE", "pricing_multiplier"),
        ({"pricing_multiplier": float("nan")}, "OUT_OF_RANGE", "pricing_multiplier"),
        ({"max_nodes": -1}, "OUT_OF_RANGE", "max_nodes"),
        ({"metadata": {"a": "x" * 16_400}}, "OUT_OF_RANGE", "metadata"),
        ({"metadata": {"a": "\x00"}}, "INVALID_FIELD", "metadata"),
    ],
)
async def test_malformed_region_is_refused_by_field(
    catalog: Catalog, members: dict[str, Any], reason: str, field: str
) -> None:
    """The refusal names what is at fault, and nothing is stored."""
    async with refused(reason, field=field):
        await catalog.region(**members)
    assert await catalog.trail() == ([], [])


async def test_code_is_unique_over_all_providers_until_deleted(catalog: Catalog) -> None:
    """A deleted region's code may be used again, by another region."""
    first = await catalog.region("shared-1")
    async with refused("REGION_CODE_TAKEN"):
        await catalog.region("shared-1", provider="gcp")
    answer = await catalog.delete_region(first.id)
    assert answer.status == "deleted"
    again = await catalog.region("shared-1", provider="gcp")
    assert again.id != first.id


async def test_update_changes_what_was_sent(catalog: Catalog) -> None:
    """The rest stays."""
    region = await catalog.region(max_nodes=7, metadata={"a": 1})
    after = await catalog.change_region(region.id, available=False, pricing_multiplier=0.7)
    assert (after.status, after.pricing_multiplier, after.max_nodes) == ("offline", 0.7, 7)
    assert after.metadata == region.metadata
    back = await catalog.change_region(region.id, available=True, name="n", metadata={"b": 2})
    assert (back.status, back.name, dict(back.metadata)) == ("active", "n", {"b": 2})
    assert back.updated_at.ToNanoseconds() > region.updated_at.ToNanoseconds()


async def test_immutable_members_may_be_repeated_but_not_changed(catalog: Catalog) -> None:
    """Repeating them with a change works; alone they are no update; different is impossible."""
    region = await catalog.region(city="Dublin")
    same = {"code": "us-east-1", "provider": "aws", "city": "Dublin", "country": ""}
    assert (await catalog.change_region(region.id, name="n", **same)).name == "n"
    async with refused("NO_FIELDS"):
        await catalog.change_region(region.id, **same)
    async with refused("NO_FIELDS"):
        await catalog.change_region(region.id)
    for field, value in {"code": "x-1", "provider": "gcp", "city": "Cork", "country": "X"}.items():
        async with refused("SEMANTIC", field=field):
            await catalog.change_region(region.id, name="other", **{field: value})
    assert (await catalog.get_region(region.id)).name == "n"


async def test_malformed_update_is_refused(catalog: Catalog) -> None:
    """With the reasons that creating has."""
    region = await catalog.region()
    async with refused("OUT_OF_RANGE", field="pricing_multiplier"):
        await catalog.change_region(region.id, pricing_multiplier=0)
    async with refused("MISSING_FIELD", field="name"):
        await catalog.change_region(region.id, name="")
    async with refused("OUT_OF_RANGE", field="max_nodes"):
        await catalog.change_region(region.id, max_nodes=-1)


async def test_path_ids_are_checked_and_looked_up(catalog: Catalog) -> None:
    """Malformed: 400; unknown or deleted: 404; the second deletion too."""
    gone = await catalog.region()
    await catalog.delete_region(gone.id)
    for call in (catalog.get_region, catalog.delete_region, catalog.availability):
        async with refused("INVALID_ID", field="id"):
            await call("nonsense")
        for unknown in (UNKNOWN, gone.id):
            async with refused("REGION_NOT_FOUND"):
                await call(unknown)
    async with refused("INVALID_ID", field="id"):
        await catalog.change_region("nonsense", name="n")
    async with refused("REGION_NOT_FOUND"):
        await catalog.change_region(gone.id, name="n")


async def test_tenants_may_not_touch_the_catalogue(catalog: Catalog) -> None:
    """Not even with an admin key of theirs."""
    tenant = await catalog.plane.tenant()
    async with refused("ADMIN_TOKEN_MISSING"):
        await catalog.regions.GetRegion(
            region_pb2.GetRegionRequest(id=UNKNOWN), metadata=bearer(tenant.key)
        )


async def test_region_in_use_is_not_deleted(catalog: Catalog, plane: Plane) -> None:
    """Live instances are counted; ending ones are not."""
    region = await catalog.region()
    tenant = await plane.tenant()
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for status in ("launching", "running_primary", "zombie", "terminating", "terminated"):
            await put_instance(conn, tenant.id, region_id=region.id, status=status)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await catalog.delete_region(region.id)
    said = refusal(raised.value)
    assert (said.reason, said.metadata["node_count"]) == ("REGION_IN_USE", "3")
    assert (await catalog.get_region(region.id)).status == "active"
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("UPDATE instances SET status = 'terminated'")
    await catalog.delete_region(region.id)


async def test_availability_lists_associated_types_at_regional_prices(catalog: Catalog) -> None:
    """Unavailable associations are shown as such; types off the catalogue are not; ordered."""
    region = await catalog.region(pricing_multiplier=1.1)
    t4 = await catalog.type(
        "g4dn.xlarge",
        gpu_model="NVIDIA T4",
        price_per_hour=0.526,
        spot_price_per_hour=0.158,
        supports_spot=True,
    )
    big = await catalog.type("g4dn.12xlarge", gpu_model="NVIDIA T4", gpu_count=4)
    a10 = await catalog.type("g5.xlarge", gpu_model="NVIDIA A10G", price_per_hour=1.006)
    off = await catalog.type("p3.2xlarge", available=False)
    await catalog.type("never-associated")
    for made in (t4, big, off):
        await catalog.associate(made.id, region.code)
    await catalog.associate(a10.id, region.code, is_available=False, stock_status="out_of_stock")

    answer = await catalog.availability(region.id)
    assert [i.id for i in answer.available_instances] == [a10.id, t4.id, big.id]
    first, second, third = answer.available_instances
    assert (first.is_available, first.stock_status) == (False, "out_of_stock")
    assert (second.price_per_hour, second.spot_price_per_hour) == (0.5786, 0.1738)
    assert (second.base_price_per_hour, second.base_spot_price_per_hour) == (0.526, 0.158)
    assert not third.HasField("price_per_hour")
    assert (answer.region_code, answer.provider, answer.status) == ("us-east-1", "aws", "active")


async def test_quota_counts_instances_that_run_or_start(catalog: Catalog, plane: Plane) -> None:
    """The region's own limit, else the configured one; never negative."""
    region = await catalog.region()
    tenant = await plane.tenant()
    statuses = ("launching", "running_primary", "running_replica", "promoting")
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for status in (*statuses, "zombie", "terminating", "terminated"):
            await put_instance(conn, tenant.id, region_id=region.id, status=status)
    quota = (await catalog.availability(region.id)).quota_limits
    assert (quota.max_nodes, quota.current_nodes, quota.available_quota) == (100, 4, 96)
    assert quota.source == "default"

    await catalog.change_region(region.id, max_nodes=3)
    quota = (await catalog.availability(region.id)).quota_limits
    assert (quota.max_nodes, quota.available_quota, quota.source) == (3, 0, "region")


async def test_launch_estimate_is_the_median_of_recent_launches(
    catalog: Catalog, plane: Plane
) -> None:
    """Absent below three samples; old launches, unfinished ones and other regions do not count."""
    region, other = await catalog.region(), await catalog.region("us-west-2")
    tenant = await plane.tenant()
    now = datetime.now(UTC)

    async def launched(seconds: float | None, *, ago: timedelta, where: str = region.id) -> None:
        at = now - ago
        async with plane.db.transaction(ALL_TENANTS) as conn:
            await put_instance(
                conn,
                tenant.id,
                region_id=where,
                status="terminated",
                launched_at=at,
                active_at=None if seconds is None else at + timedelta(seconds=seconds),
            )

    await launched(40, ago=timedelta(days=1))
    await launched(100, ago=timedelta(days=29))
    await launched(1, ago=timedelta(days=31))
    await launched(1, ago=timedelta(days=1), where=other.id)
    await launched(None, ago=timedelta(days=1))
    answer = await catalog.availability(region.id)
    assert (answer.launch_samples, answer.HasField("estimated_launch_time_seconds")) == (2, False)

    await launched(50.5, ago=timedelta(days=2))
    answer = await catalog.availability(region.id)
    assert (answer.launch_samples, answer.estimated_launch_time_seconds) == (3, 50.5)

    await launched(60, ago=timedelta(days=2))
    answer = await catalog.availability(region.id)
    assert answer.estimated_launch_time_seconds == pytest.approx(55.25)
