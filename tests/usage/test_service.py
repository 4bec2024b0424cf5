"""Who may send usage, in which portions, and what a stream that breaks off leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.plane import ADMIN, Plane, refusal, refused
from tests.usage.world import Owner, World, record


@pytest.fixture
def usage(plane: Plane) -> Any:
    """A stub."""
    return plane.stub(usage_pb2_grpc.UsageServiceStub)


async def stream(
    chunks: Iterable[Iterable[pb.UsageRecord]],
) -> AsyncIterator[pb.IngestUsageRequest]:
    for chunk in chunks:
        yield pb.IngestUsageRequest(records=chunk)


async def count(world: World, owner: Owner) -> int:
    found: int = await world.conn.fetchval(
        """SELECT coalesce(sum(requests), 0)::int
             FROM usage_rollups WHERE tenant_id = $1 AND rollup = 'hour'""",
        owner.id,
    )
    return found


@pytest.mark.parametrize("role", ["admin", "agent"])
async def test_admin_and_agent_keys_may_send(usage: Any, world: World, role: str) -> None:
    """Both doors in: the batch and the stream."""
    owner = await world.tenant(role)
    batch = await usage.IngestUsageBatch(
        pb.IngestUsageBatchRequest(records=[record("a")]), metadata=owner.metadata
    )
    streamed = await usage.IngestUsage(stream([[record("b")]]), metadata=owner.metadata)
    assert batch.accepted == streamed.accepted == 1


@pytest.mark.parametrize("role", ["read_only", "developer"])
async def test_other_keys_may_not_send(usage: Any, world: World, role: str) -> None:
    """Whoever only reads or infers cannot write the bill."""
    owner = await world.tenant(role)
    async with refused("ROLE_FORBIDDEN"):
        await usage.IngestUsageBatch(
            pb.IngestUsageBatchRequest(records=[record()]), metadata=owner.metadata
        )
    async with refused("ROLE_FORBIDDEN"):
        await usage.IngestUsage(stream([[record()]]), metadata=owner.metadata)


async def test_agent_keys_read_no_analytics(usage: Any, world: World) -> None:
    """They report; they are not shown what others used."""
    owner = await world.tenant("agent")
    async with refused("ROLE_FORBIDDEN"):
        await usage.GetUsageByHour(pb.GetUsageByHourRequest(), metadata=owner.metadata)


async def test_suspension_stops_keys_but_not_administrators(usage: Any, world: World) -> None:
    """What was served before the suspension can still be delivered."""
    owner = await world.tenant()
    await world.conn.execute("UPDATE tenants SET status = 'suspended' WHERE id = $1", owner.id)
    await world.conn.execute("UPDATE auth_epoch SET epoch = epoch + 1")
    sent = pb.IngestUsageBatchRequest(records=[record("a", tenant_id=str(owner.id))])
    async with refused("TENANT_SUSPENDED"):
        await usage.IngestUsageBatch(sent, metadata=owner.metadata)
    assert (await usage.IngestUsageBatch(sent, metadata=ADMIN)).accepted == 1


async def test_batch_holds_one_to_a_thousand_records(usage: Any, world: World) -> None:
    """None, and one too many, are refused as a whole."""
    owner = await world.tenant()
    async with refused("MISSING_FIELD", field="records"):
        await usage.IngestUsageBatch(pb.IngestUsageBatchRequest(), metadata=owner.metadata)
    records = [record(f"r{i}") for i in range(1001)]
    async with refused("OUT_OF_RANGE", field="records"):
        await usage.IngestUsageBatch(
            pb.IngestUsageBatchRequest(records=records), metadata=owner.metadata
        )
    answer = await usage.IngestUsageBatch(
        pb.IngestUsageBatchRequest(records=records[:1000]), metadata=owner.metadata
    )
    assert answer.accepted == 1000


async def test_answer_names_every_refusal(usage: Any, world: World) -> None:
    """Position, id as sent, code, field and a sentence."""
    owner = await world.tenant()
    answer = await usage.IngestUsageBatch(
        pb.IngestUsageBatchRequest(
            records=[record("a"), record("b", model="x"), record("a"), record("c", prompt=-1)]
        ),
        metadata=owner.metadata,
    )
    assert (answer.accepted, answer.duplicates, answer.rejected) == (1, 1, 2)
    assert [(e.index, e.request_id, e.code, e.field) for e in answer.errors] == [
        (1, "b", "UNKNOWN_MODEL", "model"),
        (3, "c", "INVALID_RECORD", "prompt_tokens"),
    ]
    assert all(e.description for e in answer.errors)


async def test_atomic_refusal_has_its_exact_status(usage: Any, world: World) -> None:
    """400 when a record is malformed, 422 when it is impossible."""
    owner = await world.tenant()
    for bad, status, reason in (
        (record(prompt=-1), 400, "INVALID_RECORD"),
        (record(model="x"), 422, "SEMANTIC"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await usage.IngestUsageBatch(
                pb.IngestUsageBatchRequest(records=[record("a"), bad], atomic=True),
                metadata=owner.metadata,
            )
        said = refusal(caught.value)
        assert (said.http_status, said.reason) == (status, reason)
        assert said.fields[0].startswith("records[1].")
    assert await count(world, owner) == 0


async def test_stream_counts_positions_over_all_chunks(usage: Any, world: World) -> None:
    """One answer for the whole stream."""
    owner = await world.tenant()
    answer = await usage.IngestUsage(
        stream([[record("a"), record("b")], [], [record("a"), record("c", outcome="?")]]),
        metadata=owner.metadata,
    )
    assert (answer.accepted, answer.duplicates, answer.rejected) == (2 + 0, 1, 1)
    assert [(e.index, e.request_id) for e in answer.errors] == [(3, "c")]


async def test_chunks_that_came_in_meanwhile_are_stored_together(usage: Any, world: World) -> None:
    """Many small ones are not as many transactions, and each record is told of at its position."""
    owner = await world.tenant()
    before = await revision(world, owner)
    chunks = [[record(f"{c}-a"), record(f"{c}-b", outcome="?")] for c in range(40)]

    answer = await usage.IngestUsage(stream(chunks), metadata=owner.metadata)

    assert (answer.accepted, answer.rejected) == (40, 40)
    assert [(e.index, e.request_id) for e in answer.errors] == [
        (2 * c + 1, f"{c}-b") for c in range(40)
    ]
    assert 40 / 4 <= await revision(world, owner) - before < 40


async def revision(world: World, owner: Owner) -> int:
    found: int = await world.conn.fetchval(
        "SELECT coalesce(sum(revision), 0)::int FROM usage_revisions WHERE tenant_id = $1", owner.id
    )
    return found


async def test_stream_tells_the_first_thousand_refusals(usage: Any, world: World) -> None:
    """All are counted, not all are described."""
    owner = await world.tenant()
    bad = [record(f"r{i}", prompt=-1) for i in range(600)]
    answer = await usage.IngestUsage(stream([bad, bad]), metadata=owner.metadata)
    assert (answer.rejected, len(answer.errors)) == (1200, 1000)


async def test_too_large_chunk_ends_the_stream_after_what_was_stored(
    usage: Any, world: World
) -> None:
    """Chunks before it are committed; it and later ones are not."""
    owner = await world.tenant()
    async with refused("OUT_OF_RANGE", field="records"):
        await usage.IngestUsage(
            stream([[record("a")], [record(f"r{i}") for i in range(1001)], [record("b")]]),
            metadata=owner.metadata,
        )
    assert await count(world, owner) == 1


async def test_stream_that_breaks_off_is_sent_again_whole(usage: Any, world: World) -> None:
    """What was stored counts as duplicates; the totals are those of one delivery."""
    owner = await world.tenant()
    chunks = [[record(f"{c}-{i}") for i in range(50)] for c in range(4)]
    open_end = asyncio.Event()

    async def broken() -> AsyncIterator[pb.IngestUsageRequest]:
        async for request in stream(chunks[:2]):
            yield request
        await open_end.wait()

    call = usage.IngestUsage(broken(), metadata=owner.metadata)

    async def stored() -> bool:
        return await count(world, owner) == 100

    await eventually(stored)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    answer = await usage.IngestUsage(stream(chunks), metadata=owner.metadata)
    assert (answer.accepted, answer.duplicates) == (100, 100)
    assert await count(world, owner) == 200


async def test_acknowledged_is_visible_at_once(usage: Any, world: World, clock: FakeClock) -> None:
    """Every answer that starts after the acknowledgement has the record in it."""
    owner = await world.tenant()
    clock.advance(timedelta(minutes=1))
    for round_ in range(1, 6):
        await usage.IngestUsageBatch(
            pb.IngestUsageBatchRequest(records=[record()]), metadata=owner.metadata
        )
        answer = await usage.GetUsageDetailed(pb.GetUsageDetailedRequest(), metadata=owner.metadata)
        assert answer.data[0].total_requests == round_


async def test_sums_are_exact_to_the_nano(usage: Any, world: World) -> None:
    """A million small costs are not a rounded large one."""
    owner = await world.tenant()
    await world.model("odd", "0.333333", "0.777777")
    sent = [record(f"r{i}", prompt=i, completion=1, model="odd") for i in range(500)]
    await usage.IngestUsageBatch(pb.IngestUsageBatchRequest(records=sent), metadata=owner.metadata)
    answer = await usage.GetUsageDetailed(pb.GetUsageDetailedRequest(), metadata=owner.metadata)
    expected = sum(round(i * 333_333_000 + 777_777_000, -6) // 10**6 for i in range(500))
    assert answer.data[0].total_cost_nanos == expected
    assert answer.data[0].total_cost_usd == expected / 10**9


async def test_tenant_claim_of_another_is_refused_per_record(usage: Any, world: World) -> None:
    """One false claim does not block the others."""
    owner = await world.tenant()
    answer = await usage.IngestUsageBatch(
        pb.IngestUsageBatchRequest(records=[record(tenant_id=str(uuid4())), record()]),
        metadata=owner.metadata,
    )
    assert (answer.accepted, [e.code for e in answer.errors]) == (1, ["TENANT_MISMATCH"])
