"""Records are stored once, priced as of their time, and belong to one tenant."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from spotplane.v1 import usage_pb2 as pb
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import Invalid, Semantic
from spotplane_server.usage.ingest import Result, ingest
from spotplane_server.usage.jobs import RequestIdRetention

from tests.support.eventually import eventually
from tests.usage.world import Owner, World, hour_of, record

NOW = datetime.now(UTC)


async def put(db: Database, owner: Owner, *records: pb.UsageRecord, **options: Any) -> Result:
    return await ingest(db, owner.id, owner.environments[0], records, NOW, **options)


def codes(result: Result) -> list[tuple[int, str, str]]:
    return [(e.index, e.code, e.field) for e in result.errors]


async def stored(world: World, owner: Owner) -> list[asyncpg.Record]:
    return await world.conn.fetch(
        "SELECT * FROM usage_records WHERE tenant_id = $1 ORDER BY request_id", owner.id
    )


async def totals(world: World, owner: Owner) -> tuple[int, int, int]:
    row = await world.conn.fetchrow(
        """SELECT coalesce(sum(requests), 0), coalesce(sum(total_tokens), 0),
                  coalesce(sum(cost_nanos), 0)
             FROM usage_rollups WHERE tenant_id = $1 AND rollup = 'hour_all'""",
        owner.id,
    )
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


async def test_record_is_stored_with_the_prices_that_made_its_cost(
    db: Database, world: World
) -> None:
    """Values are snapshots; the cost is exact to the nano."""
    owner = await world.tenant()
    sent = record(
        "r1",
        NOW,
        prompt=1000,
        completion=500,
        model="llama-3-70b",
        region_code="in-mumbai",
        api_key_id=str(owner.keys[1]),
        latency_ms=12,
        status_code=200,
        node_id="i-1",
    )
    sent.metadata.update({"route": "chat"})
    assert (await put(db, owner, sent)).accepted == 1

    (row,) = await stored(world, owner)
    assert row["cost_nanos"] == 630_000
    assert (row["price_input"], row["price_cached"], row["price_output"]) == (Decimal("0.6"),) * 3
    assert row["region_multiplier"] == Decimal("0.7")
    assert row["model_id"] == world.models["llama-3-70b"]
    assert row["region_id"] == world.regions["in-mumbai"]
    assert row["environment_id"] == owner.environments[1]  # of the key that was used
    assert (row["total_tokens"], row["outcome"], row["node_id"]) == (1500, "success", "i-1")
    assert row["metadata"] == '{"route": "chat"}'
    assert await totals(world, owner) == (1, 1500, 630_000)


async def test_bad_records_never_block_good_ones(db: Database, world: World) -> None:
    """Each refusal has its position, code and field; the rest is stored."""
    owner, other = await world.tenant(), await world.tenant()
    result = await put(
        db,
        owner,
        record("good", NOW),
        record("bad", prompt=-1),
        record(model="gpt-9"),
        record(model_id=str(uuid4())),
        record(region_code="moon-1"),
        record(region_id=str(uuid4())),
        record(api_key_id=str(other.keys[0])),
        record(environment_id=str(other.environments[0])),
        record(tenant_id=str(other.id)),
        record(at=NOW - timedelta(days=36)),
        record(at=NOW + timedelta(minutes=6)),
        record(prompt=1, cached_tokens=2),
        record("good", NOW, prompt=1),
        record("fine", NOW - timedelta(days=34)),
    )
    assert (result.accepted, result.duplicates, result.rejected) == (2, 0, 12)
    assert codes(result) == [
        (1, "INVALID_RECORD", "prompt_tokens"),
        (2, "UNKNOWN_MODEL", "model"),
        (3, "UNKNOWN_MODEL", "model_id"),
        (4, "UNKNOWN_REGION", "region_code"),
        (5, "UNKNOWN_REGION", "region_id"),
        (6, "UNKNOWN_KEY", "api_key_id"),
        (7, "INVALID_RECORD", "environment_id"),
        (8, "TENANT_MISMATCH", "tenant_id"),
        (9, "TOO_OLD", "timestamp"),
        (10, "IN_FUTURE", "timestamp"),
        (11, "SEMANTIC", "cached_tokens"),
        (12, "REQUEST_ID_REUSED", "request_id"),
    ]
    assert [row["request_id"] for row in await stored(world, owner)] == ["fine", "good"]


async def test_unreasonable_cost_is_refused(db: Database, world: World) -> None:
    """Sums of an hour must stay within 64 bits, whatever is sent."""
    owner = await world.tenant()
    await world.model("gold", "999999", "999999")
    result = await put(db, owner, record(prompt=1_000_000_000, model="gold"))
    assert codes(result) == [(0, "SEMANTIC", "prompt_tokens")]


async def test_same_content_again_is_a_duplicate(db: Database, world: World) -> None:
    """Resending changes nothing; other content under the id is refused."""
    owner = await world.tenant()
    batch = [record(f"r{i}", NOW, model="mistral-7b") for i in range(5)]
    first = await put(db, owner, *batch)
    before = await totals(world, owner)
    again = await put(db, owner, *batch, record("r0", NOW, model="mistral-7b", prompt=1))
    assert (first.accepted, first.duplicates) == (5, 0)
    assert (again.accepted, again.duplicates) == (0, 5)
    assert codes(again) == [(5, "REQUEST_ID_REUSED", "request_id")]
    assert await totals(world, owner) == before
    assert len(await stored(world, owner)) == 5


async def test_duplicates_within_one_batch_count_once(db: Database, world: World) -> None:
    """The first wins; equal ones are duplicates, others are refused."""
    owner = await world.tenant()
    result = await put(
        db, owner, record("a", NOW), record("a", NOW), record("a", NOW, completion=99)
    )
    assert (result.accepted, result.duplicates) == (1, 1)
    assert codes(result) == [(2, "REQUEST_ID_REUSED", "request_id")]


async def test_refused_record_does_not_take_its_request_id(db: Database, world: World) -> None:
    """Once it is corrected, it may be sent under the same id."""
    owner = await world.tenant()
    await put(db, owner, record("r", NOW, model="unheard-of"), record("s", prompt=-1))
    again = await put(db, owner, record("r", NOW, model="mistral-7b"), record("s", NOW))
    assert again.accepted == 2


async def test_request_ids_are_the_tenants_own(db: Database, world: World) -> None:
    """Two tenants may use one id."""
    for owner in (await world.tenant(), await world.tenant()):
        assert (await put(db, owner, record("same", NOW))).accepted == 1


async def test_racing_writers_store_each_record_once(db: Database, world: World) -> None:
    """Batches with the same ids, in different orders, at the same time: totals are exact."""
    owner = await world.tenant()
    batch = [
        record(f"r{i}", NOW - timedelta(minutes=i), model="mistral-7b", latency_ms=i)
        for i in range(200)
    ]
    results = await asyncio.gather(
        *(put(db, owner, *(batch[n:] + batch[:n])) for n in (0, 50, 100, 150, 199))
    )
    assert sum(r.accepted for r in results) == 200
    assert sum(r.duplicates for r in results) == 800
    assert not any(r.errors for r in results)
    assert len(await stored(world, owner)) == 200
    assert await totals(world, owner) == (200, 22_000, 200 * 4_500)


async def test_racing_writers_of_different_content_have_one_winner(
    db: Database, world: World
) -> None:
    """Whoever commits second learns that the id was reused."""
    owner = await world.tenant()
    results = await asyncio.gather(
        *(put(db, owner, record("r", NOW, prompt=n)) for n in range(1, 6))
    )
    assert sum(r.accepted for r in results) == 1
    assert sum(len(r.errors) for r in results) == 4
    assert {e.code for r in results for e in r.errors} == {"REQUEST_ID_REUSED"}


async def test_batch_that_does_not_commit_leaves_nothing(db: Database, world: World) -> None:
    """Cut off before its answer, it can be sent again as if for the first time."""
    owner = await world.tenant()
    batch = [record(f"r{i}", NOW) for i in range(500)]
    async with world.conn.transaction():
        # Holds one id, so that the batch waits in the middle of its transaction.
        await world.conn.execute(
            "INSERT INTO usage_dedup VALUES ($1, 'r499', '\\x00', now())", owner.id
        )
        cut = asyncio.create_task(put(db, owner, *batch))
        await eventually(lambda: _waits_for_a_lock(world))
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        await world.conn.execute("DELETE FROM usage_dedup WHERE tenant_id = $1", owner.id)
    assert await stored(world, owner) == []
    assert (await put(db, owner, *batch)).accepted == 500


async def _waits_for_a_lock(world: World) -> bool:
    return bool(
        await world.conn.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
        )
    )


async def test_atomic_batch_is_all_or_nothing(db: Database, world: World) -> None:
    """One refusal refuses all: 400 when malformed, else 422, with every record named."""
    owner = await world.tenant()
    with pytest.raises(Invalid) as malformed:
        await put(db, owner, record("a", NOW), record("b", prompt=-1), atomic=True)
    assert (malformed.value.http_status, malformed.value.reason) == (400, "INVALID_RECORD")
    with pytest.raises(Semantic) as impossible:
        await put(
            db, owner, record("a", NOW), record(model="x"), record("a", prompt=1), atomic=True
        )
    assert (impossible.value.http_status, impossible.value.reason) == (422, "SEMANTIC")
    assert [v.field for v in impossible.value.details] == [
        "records[1].model",
        "records[2].request_id",
    ]
    assert await stored(world, owner) == []
    assert (await put(db, owner, record("a", NOW), record("b", NOW), atomic=True)).accepted == 2
    assert (await put(db, owner, record("a", NOW), atomic=True)).duplicates == 1


async def test_prices_are_those_of_the_records_time(db: Database, world: World) -> None:
    """A late record costs what it would have cost in time; a price change holds at once."""
    owner = await world.tenant()
    model, region = await world.model("changing"), world.regions["eu-west"]
    await world.price("model", model, NOW - timedelta(days=50), '{"input": "1", "output": "1"}')
    await world.price("model", model, NOW - timedelta(days=10), '{"input": "2", "output": "2"}')
    await world.price("region", region, NOW - timedelta(days=60), '{"multiplier": "1"}')
    await world.price("region", region, NOW - timedelta(days=5), '{"multiplier": "0.5"}')
    sent: dict[str, Any] = {
        "model": "changing",
        "region_code": "eu-west",
        "prompt": 1,
        "completion": 0,
    }
    await put(
        db,
        owner,
        *(record(f"{d:02}", NOW - timedelta(days=d), **sent) for d in (34, 11, 10, 6, 5, 0)),
    )
    await world.price("model", model, NOW, '{"input": "4", "output": "4"}')
    await put(db, owner, record("now", NOW, **sent), record("20", NOW - timedelta(days=20), **sent))
    costs = {row["request_id"]: row["cost_nanos"] for row in await stored(world, owner)}
    assert costs == {
        "34": 1000,
        "20": 1000,
        "11": 1000,
        "10": 2000,
        "06": 2000,
        "05": 1000,
        "00": 1000,
        "now": 2000,
    }


async def test_unattributed_record_costs_nothing(db: Database, world: World) -> None:
    """Without a model there is no price, and the snapshot says so."""
    owner = await world.tenant()
    await put(db, owner, record("r", NOW))
    (row,) = await stored(world, owner)
    assert (row["cost_nanos"], row["price_input"], row["model_id"]) == (0, None, None)


async def test_code_used_again_means_the_region_that_has_it(db: Database, world: World) -> None:
    """A deleted region is still found by its id."""
    owner = await world.tenant()
    old = world.regions["eu-west"]
    await world.conn.execute("UPDATE regions SET deleted_at = now() WHERE id = $1", old)
    await put(db, owner, record("a", NOW, region_code="eu-west"))
    new = await world.region("eu-west", "2")
    await put(
        db,
        owner,
        record("b", NOW, region_code="eu-west"),
        record("c", NOW, region_id=str(old)),
    )
    assert [row["region_id"] for row in await stored(world, owner)] == [old, new, old]


async def test_name_used_again_means_the_model_that_has_it(db: Database, world: World) -> None:
    """A deleted model is still found: by its id, and by its name while no other has it."""
    owner = await world.tenant()
    old = await world.model("again", full="1")
    await world.conn.execute("UPDATE models SET deleted_at = now() WHERE id = $1", old)
    await put(db, owner, record("a", NOW, model="again", prompt=1, completion=0))
    new = await world.model("again", full="2")
    await put(
        db,
        owner,
        record("b", NOW, model="again", prompt=1, completion=0),
        record("c", NOW, model_id=str(old), prompt=1, completion=0),
    )
    rows = [(row["model_id"], row["cost_nanos"]) for row in await stored(world, owner)]
    assert rows == [(old, 1000), (new, 2000), (old, 1000)]


async def test_late_records_go_to_their_own_month(db: Database, world: World) -> None:
    """34 days back is another month's partition and hour; 36 days back is refused."""
    owner = await world.tenant()
    late = NOW - timedelta(days=34)
    border = hour_of(late).replace(day=1, hour=0)
    border = border if border >= late else (border + timedelta(days=32)).replace(day=1)
    times = [late, border - timedelta(microseconds=1), border, NOW]
    result = await put(db, owner, *(record(f"r{i}", at) for i, at in enumerate(times)))
    assert result.accepted == 4
    partitions = await world.conn.fetch(
        """SELECT request_id, tableoid::regclass::text AS partition
             FROM usage_records WHERE tenant_id = $1 ORDER BY request_id""",
        owner.id,
    )
    assert [row["partition"] for row in partitions] == [f"usage_records_{at:%Y%m}" for at in times]
    buckets = await world.conn.fetch(
        """SELECT starts_at AS hour, requests
             FROM usage_rollups WHERE tenant_id = $1 AND rollup = 'hour_all' ORDER BY 1""",
        owner.id,
    )
    assert {row["hour"] for row in buckets} == {hour_of(at) for at in times}


async def test_administrators_batch_spans_tenants(db: Database, world: World) -> None:
    """Each record names its tenant, and what belongs to another is unknown to it."""
    one, two = await world.tenant(), await world.tenant()
    result = await ingest(
        db,
        None,
        None,
        [
            record("a", NOW, tenant_id=str(one.id), api_key_id=str(one.keys[0])),
            record("a", NOW, tenant_id=str(two.id)),
            record("b", NOW, tenant_id=str(two.id), api_key_id=str(one.keys[0])),
            record("c", NOW, tenant_id=str(uuid4())),
            record("d", NOW),
        ],
        NOW,
    )
    assert result.accepted == 2
    assert codes(result) == [
        (2, "UNKNOWN_KEY", "api_key_id"),
        (3, "INVALID_RECORD", "tenant_id"),
        (4, "INVALID_RECORD", "tenant_id"),
    ]
    assert (await stored(world, one))[0]["environment_id"] == one.environments[0]
    assert len(await stored(world, two)) == 1


async def test_request_ids_are_forgotten_after_forty_days(db: Database, world: World) -> None:
    """Not before; and running again finds nothing more."""
    owner = await world.tenant()
    await put(db, owner, record("old", NOW - timedelta(days=30)), record("new", NOW))
    job = RequestIdRetention(db)
    assert await job.run_once(NOW + timedelta(days=9)) == 0
    assert await job.run_once(NOW + timedelta(days=11)) == 1
    assert await job.run_once(NOW + timedelta(days=11)) == 0
    async with db.connection(ALL_TENANTS) as conn:
        assert await conn.fetchval("SELECT request_id FROM usage_dedup") == "new"


async def test_number_of_statements_does_not_grow_with_the_batch(
    database_url: str, world: World
) -> None:
    """One record and a thousand take the same statements."""
    owner = await world.tenant()
    lone = await Database.open(database_url, size=1)
    counts, logged = [], list[object]()
    async with lone.connection(owner.id) as conn:
        conn.add_query_logger(logged.append)
    for size in (1, 1, 1000):  # the first also makes the connection learn types
        logged.clear()
        batch = [record(None, NOW, model="mistral-7b", latency_ms=i, prompt=i) for i in range(size)]
        await put(lone, owner, *batch)
        counts.append(len(logged))
    await lone.close()
    assert 0 < counts[1] == counts[2] <= 12
