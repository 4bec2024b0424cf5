"""Callers that meet: one winner, the right refusals, nothing half done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import grpc.aio
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.catalog.world import Catalog, put_instance
from tests.support.eventually import eventually
from tests.support.plane import Plane, refusal, refused

# What whoever launches does first, in the transaction that stores the instance.
_HOLD_REGION = "SELECT id FROM regions WHERE code = $1 AND deleted_at IS NULL FOR KEY SHARE"
_HOLD_TYPE = "SELECT id FROM instance_types WHERE id = $1 AND deleted_at IS NULL FOR KEY SHARE"
_DELETE_REGION = "UPDATE regions SET deleted_at = now() WHERE id = $1"
_WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


async def outcomes(calls: Sequence[Awaitable[Any]]) -> Counter[str]:
    """How the calls ended: reasons of refusals, and names of answers."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(
        refusal(a).reason if isinstance(a, grpc.aio.AioRpcError) else type(a).__name__
        for a in answers
    )


async def somebody_waits(plane: Plane) -> None:
    """Wait until the server waits for somebody's lock."""
    # The plain role does not see what others wait for.
    owner = await asyncpg.connect(plane.database_url)

    async def waiting() -> Any:
        return await owner.fetchval(_WAITING)

    try:
        await eventually(waiting)
    finally:
        await owner.close()


async def test_one_of_fifty_creators_wins(catalog: Catalog) -> None:
    """The others hear that the code, the name or the pair is taken; one row, one trail each."""
    regions = await outcomes([catalog.region("race-1") for _ in range(50)])
    types = await outcomes([catalog.type("race") for _ in range(50)])
    models = await outcomes([catalog.model("race") for _ in range(50)])
    assert regions == {"Region": 1, "REGION_CODE_TAKEN": 49}
    assert types == {"InstanceType": 1, "INSTANCE_TYPE_EXISTS": 49}
    assert models == {"Model": 1, "MODEL_NAME_TAKEN": 49}
    audits, events = await catalog.trail_counts()
    assert audits == {"region.create": 1, "instance_type.create": 1, "model.create": 1}
    assert events == {"region.created": 1, "instance_type.created": 1, "model.created": 1}


async def test_one_of_fifty_deletions_wins(catalog: Catalog) -> None:
    """The others find nothing."""
    region, model = await catalog.region(), await catalog.model()
    found = await outcomes([catalog.delete_region(region.id) for _ in range(50)])
    assert found == {"DeleteRegionResponse": 1, "REGION_NOT_FOUND": 49}
    found = await outcomes([catalog.delete_model(model.id) for _ in range(50)])
    assert found == {"DeleteModelResponse": 1, "MODEL_NOT_FOUND": 49}


async def test_one_of_fifty_renamings_wins(catalog: Catalog) -> None:
    """The others hear that the name is taken and keep their own."""
    models = [await catalog.model(f"m-{i}") for i in range(50)]
    found = await outcomes([catalog.change_model(m.id, name="best") for m in models])
    assert found == {"Model": 1, "MODEL_NAME_TAKEN": 49}
    assert (await catalog.search(q="m-")).pagination.total == 49


async def test_model_price_stored_last_holds_last(catalog: Catalog) -> None:
    """As with regions: no price is lost, and history ends with the one that holds."""
    model = await catalog.model()
    await asyncio.gather(
        *(catalog.change_model(model.id, price_input_per_million=1 + i) for i in range(50))
    )
    history = await catalog.history(model.id)
    assert len(history) == 51
    last = (await catalog.get_model(model.id)).price_input_per_million
    assert float(history[-1]["input"]) == last


async def test_associations_at_the_same_time_add_up(catalog: Catalog) -> None:
    """Fifty callers, codes in every order: no deadlock, and each association is new once."""
    made = await catalog.type()
    codes = [f"r-{i}" for i in range(10)]
    for code in codes:
        await catalog.region(code)
    answers = await asyncio.gather(
        *(
            catalog.associate(made.id, *(codes[i % 10 :] + codes[: i % 10])[:: 1 - 2 * (i % 2)])
            for i in range(50)
        )
    )
    assert sum(a.inserted for a in answers) == 10
    assert sum(a.inserted + a.updated for a in answers) == 500
    assert len((await catalog.pricing(made.id)).regional_pricing) == 10


async def test_deleting_a_region_waits_for_a_launch_and_counts_it(
    catalog: Catalog, plane: Plane
) -> None:
    """The launch held the region first, so it wins."""
    region, tenant = await catalog.region(), await plane.tenant()
    async with plane.db.transaction(ALL_TENANTS) as launch:
        assert await launch.fetchval(_HOLD_REGION, region.code)
        await put_instance(launch, tenant.id, region_id=region.id, status="launching")
        deletion = asyncio.ensure_future(outcomes([catalog.delete_region(region.id)]))
        await somebody_waits(plane)
    assert await deletion == {"REGION_IN_USE": 1}


async def test_launch_into_a_region_being_deleted_finds_it_gone(
    catalog: Catalog, plane: Plane
) -> None:
    """The deletion held the region first, so no launch slips in."""
    region = await catalog.region()
    async with plane.db.transaction(ALL_TENANTS) as deletion:
        await deletion.execute("SELECT id FROM regions WHERE code = $1 FOR UPDATE", region.code)

        async def launch() -> Any:
            async with plane.db.transaction(ALL_TENANTS) as conn:
                return await conn.fetchval(_HOLD_REGION, region.code)

        held = asyncio.ensure_future(launch())
        await somebody_waits(plane)
        await deletion.execute(_DELETE_REGION, UUID(region.id))
    assert await held is None


async def test_deleting_a_type_waits_for_a_launch_and_counts_it(
    catalog: Catalog, plane: Plane
) -> None:
    """As with regions."""
    made, tenant = await catalog.type(), await plane.tenant()
    async with plane.db.transaction(ALL_TENANTS) as launch:
        assert await launch.fetchval(_HOLD_TYPE, made.id)
        await put_instance(launch, tenant.id, type_id=made.id, status="launching")
        deletion = asyncio.ensure_future(outcomes([catalog.delete_type(made.id)]))
        await somebody_waits(plane)
    assert await deletion == {"INSTANCE_TYPE_IN_USE": 1}


async def test_launches_and_deletions_never_both_win(catalog: Catalog, plane: Plane) -> None:
    """Thirty rounds at once: an instance lives only where its region does."""
    tenant = await plane.tenant()

    async def launch(region_id: str, code: str) -> bool:
        async with plane.db.transaction(ALL_TENANTS) as conn:
            if not await conn.fetchval(_HOLD_REGION, code):
                return False
            await put_instance(conn, tenant.id, region_id=region_id, status="launching")
            return True

    async def round_(i: int) -> None:
        region = await catalog.region(f"race-{i}")
        launched, outcome = await asyncio.gather(
            launch(region.id, region.code), outcomes([catalog.delete_region(region.id)])
        )
        assert outcome == ({"REGION_IN_USE": 1} if launched else {"DeleteRegionResponse": 1})

    await asyncio.gather(*(round_(i) for i in range(30)))


async def test_association_with_a_region_being_deleted_is_refused(
    catalog: Catalog, plane: Plane
) -> None:
    """It waits for the deletion, and then finds the code unknown."""
    made, region = await catalog.type(), await catalog.region()
    async with plane.db.transaction(ALL_TENANTS) as deletion:
        await deletion.execute("SELECT id FROM regions WHERE code = $1 FOR UPDATE", region.code)
        call = asyncio.ensure_future(outcomes([catalog.associate(made.id, region.code)]))
        await somebody_waits(plane)
        await deletion.execute(_DELETE_REGION, UUID(region.id))
    assert await call == {"SEMANTIC": 1}


async def test_price_stored_last_holds_last(catalog: Catalog, plane: Plane) -> None:
    """Fifty changes at once: history's newest row is the region's multiplier, none is lost."""
    region = await catalog.region()
    await asyncio.gather(
        *(catalog.change_region(region.id, pricing_multiplier=(200 + i) / 100) for i in range(50))
    )
    history = await catalog.history(region.id)
    assert len(history) == 51
    last = (await catalog.get_region(region.id)).pricing_multiplier
    assert float(history[-1]["multiplier"]) == last


async def test_spot_and_on_demand_changes_at_the_same_time_keep_their_order(
    catalog: Catalog,
) -> None:
    """Each sees the other's; never an internal error from the constraint beneath."""
    made = await catalog.type(price_per_hour=10, spot_price_per_hour=1, supports_spot=True)
    found = await outcomes(
        [catalog.change_type(made.id, price_per_hour=1 + i % 9) for i in range(25)]
        + [catalog.change_type(made.id, spot_price_per_hour=1 + i % 9) for i in range(25)]
    )
    assert set(found) <= {"InstanceType", "SEMANTIC"}
    after = await catalog.get_type(made.id)
    assert after.spot_price_per_hour <= after.price_per_hour


async def test_refused_callers_leave_the_winner_alone(catalog: Catalog) -> None:
    """A loser's transaction takes nothing of the winner's with it."""
    region = await catalog.region("only-1", name="First")
    async with refused("REGION_CODE_TAKEN"):
        await catalog.region("only-1", name="Second")
    assert (await catalog.get_region(region.id)).name == "First"
