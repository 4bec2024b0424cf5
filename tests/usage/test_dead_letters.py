"""What cannot be stored is kept until somebody can do something about it."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc
from spotplane_server.kernel.db.database import Database
from spotplane_server.usage import dead_letters
from spotplane_server.usage.dead_letters import Refused, Sender

from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, Plane, refused
from tests.usage.test_service import count, stream
from tests.usage.world import Owner, World, record

AGENT = Sender("agent", str(uuid4()))


@pytest.fixture
def usage(plane: Plane) -> Any:
    """A stub."""
    return plane.stub(usage_pb2_grpc.UsageServiceStub)


async def letters(usage: Any, owner: Owner, **filters: Any) -> list[pb.UsageDeadLetter]:
    request = pb.ListUsageDeadLettersRequest(tenant_id=str(owner.id), **filters)
    found = await usage.ListUsageDeadLetters(request, metadata=ADMIN)
    assert found.pagination.total >= len(found.data)
    return list(found.data)


async def retry(usage: Any, owner: Owner, *ids: str) -> pb.RetryUsageDeadLettersResponse:
    answer: pb.RetryUsageDeadLettersResponse = await usage.RetryUsageDeadLetters(
        pb.RetryUsageDeadLettersRequest(tenant_id=str(owner.id), ids=ids), metadata=ADMIN
    )
    return answer


async def test_a_stream_keeps_what_it_refuses(usage: Any, world: World) -> None:
    """As it was sent, with the reason, beside what is stored."""
    owner = await world.tenant()
    bad = record("bad", model="not-yet")
    answer = await usage.IngestUsage(stream([[record("good"), bad]]), metadata=owner.metadata)
    [letter] = await letters(usage, owner)
    assert (answer.accepted, answer.rejected) == (1, 1)
    assert letter.record == bad
    assert (letter.code, letter.field) == ("UNKNOWN_MODEL", "model")
    assert (letter.sender_kind, letter.sender_id) == ("tenant", str(owner.keys[0]))


async def test_a_batch_keeps_nothing(usage: Any, world: World) -> None:
    """Its sender is told of every error and can correct it."""
    owner = await world.tenant()
    await usage.IngestUsageBatch(
        pb.IngestUsageBatchRequest(records=[record("bad", model="not-yet")]),
        metadata=owner.metadata,
    )
    assert await letters(usage, owner) == []


async def test_what_comes_again_is_kept_once(usage: Any, world: World) -> None:
    """A stream that broke off is sent again."""
    owner = await world.tenant()
    for _ in range(2):
        sent = stream([[record("bad", model="not-yet"), record("worse", model="")]])
        await usage.IngestUsage(sent, metadata=owner.metadata)
    assert len(await letters(usage, owner)) == 2


async def test_retrying_stores_what_can_be_stored_by_now(
    usage: Any, world: World, clock: FakeClock
) -> None:
    """At the time when it came, priced as of then; the rest stays, with its reason."""
    owner = await world.tenant()
    sent = stream([[record("a", model="soon"), record("b", model="never")]])
    await usage.IngestUsage(sent, metadata=owner.metadata)
    came = {letter.record.request_id: letter.received_at for letter in await letters(usage, owner)}
    await world.model("soon", "1.00", "1.00")
    clock.advance(timedelta(days=2))

    answer = await retry(usage, owner)

    assert (answer.accepted, answer.rejected, answer.remaining) == (1, 1, 1)
    assert [letter.record.request_id for letter in await letters(usage, owner)] == ["b"]
    stored = await world.conn.fetchrow(
        'SELECT "timestamp", cost_nanos FROM usage_records WHERE tenant_id = $1', owner.id
    )
    assert stored is not None
    assert stored["timestamp"] == came["a"].ToDatetime(tzinfo=UTC)
    assert stored["cost_nanos"] == 110_000


async def test_retrying_twice_stores_once(usage: Any, world: World) -> None:
    """What was delivered meanwhile by another way is a duplicate and leaves."""
    owner = await world.tenant()
    late = record("a", model="soon")
    await usage.IngestUsage(stream([[late]]), metadata=owner.metadata)
    await world.model("soon")
    await usage.IngestUsage(stream([[late]]), metadata=owner.metadata)
    first, second = await retry(usage, owner), await retry(usage, owner)
    assert (first.accepted, first.duplicates, first.remaining) == (0, 1, 0)
    assert (second.accepted, second.duplicates) == (0, 0)
    assert await count(world, owner) == 1


async def test_too_old_stays_too_old(usage: Any, world: World, clock: FakeClock) -> None:
    """Beyond 35 days nothing is stored any more, however it comes."""
    owner = await world.tenant()
    await usage.IngestUsage(stream([[record("a", model="soon")]]), metadata=owner.metadata)
    await world.model("soon")
    clock.advance(timedelta(days=36))
    answer = await retry(usage, owner)
    [letter] = await letters(usage, owner, code="TOO_OLD")
    assert (answer.accepted, answer.rejected) == (0, 1)
    assert letter.record.request_id == "a"


async def test_discarding_is_by_id_and_repeatable(usage: Any, world: World) -> None:
    """Others stay, and another tenant's are not touched."""
    owner, other = await world.tenant(), await world.tenant()
    for of in (owner, other):
        bad = [record("a", model="no"), record("b", model="no")]
        await usage.IngestUsage(stream([bad]), metadata=of.metadata)
    ids = [letter.id for letter in await letters(usage, owner)]
    foreign = [letter.id for letter in await letters(usage, other)]
    request = pb.DiscardUsageDeadLettersRequest(tenant_id=str(owner.id), ids=[ids[0], *foreign])
    answers = [await usage.DiscardUsageDeadLetters(request, metadata=ADMIN) for _ in range(2)]
    assert [answer.discarded for answer in answers] == [1, 0]
    assert [letter.id for letter in await letters(usage, owner)] == ids[1:]
    assert len(await letters(usage, other)) == 2


async def test_pages_hold_every_letter_once(usage: Any, world: World) -> None:
    """By token, newest first, of one moment too."""
    owner = await world.tenant()
    bad = [record(f"r{n}", model="no") for n in range(5)]
    await usage.IngestUsage(stream([bad]), metadata=owner.metadata)
    request, seen = pb.ListUsageDeadLettersRequest(tenant_id=str(owner.id), limit=2), []
    while True:
        page = await usage.ListUsageDeadLetters(request, metadata=ADMIN)
        seen += [letter.record.request_id for letter in page.data]
        if not page.pagination.has_more:
            break
        request.page_token = page.pagination.next_page_token
    assert sorted(seen) == [f"r{n}" for n in range(5)]


async def test_bad_requests_name_the_field(usage: Any, world: World) -> None:
    """Ids, codes, tenants."""
    owner = await world.tenant()
    async with refused("INVALID_ID", field="ids[0]"):
        await retry(usage, owner, "x")
    async with refused("MISSING_FIELD", field="ids"):
        await usage.DiscardUsageDeadLetters(
            pb.DiscardUsageDeadLettersRequest(tenant_id=str(owner.id)), metadata=ADMIN
        )
    async with refused("UNKNOWN_ENUM", field="code"):
        await letters(usage, owner, code="BAD")
    async with refused("TENANT_NOT_FOUND"):
        await usage.ListUsageDeadLetters(
            pb.ListUsageDeadLettersRequest(tenant_id=str(uuid4())), metadata=ADMIN
        )


async def test_no_more_are_kept_than_there_is_room_for(
    db: Database, world: World, clock: FakeClock
) -> None:
    """A sender that is wrong about everything fills no disk; another tenant has its own room."""
    owner, other = await world.tenant(), await world.tenant()
    await world.conn.execute(
        """INSERT INTO usage_dead_letters
           SELECT $1, gen_random_uuid(), sha256(n::text::bytea), '', NULL, 'agent', 'x', 'SEMANTIC',
                  '', '', now()
             FROM generate_series(1, $2::int) AS n""",
        owner.id,
        dead_letters.MAX_KEPT - 1,
    )
    sent = [_refused(of.id, f"{n}") for of in (owner, other) for n in range(3)]
    async with db.transaction("*") as conn:
        kept = await dead_letters.keep(conn, AGENT, None, sent, clock.now())
    assert kept == 1 + 3


async def test_nobodys_letters_are_not_kept(db: Database, world: World, clock: FakeClock) -> None:
    """An administrator's record may name a tenant that does not exist, or none."""
    sent = [_refused(uuid4(), "a"), _refused(None, "b")]
    async with db.transaction("*") as conn:
        assert await dead_letters.keep(conn, AGENT, None, sent, clock.now()) == 0


def _refused(tenant: UUID | None, name: str) -> Refused:
    return Refused(tenant, record(name), "SEMANTIC", "", "why")
