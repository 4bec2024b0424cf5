"""A replica answers about usage, and being behind or away it hides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from tests.support.eventually import eventually
from tests.support.plane import ADMIN, running
from tests.support.standby import Standby, standby_of
from tests.usage import questions
from tests.usage.world import Owner, World, record

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Pair:
    """A server with a replica, which keeps no answers, so that each is read."""

    standby: Standby
    usage: Any
    world: World

    async def send(self, owner: Owner) -> None:
        """Have one record acknowledged."""
        one = record(model="llama-3-70b", api_key_id=str(owner.keys[0]))
        sent = pb.IngestUsageBatchRequest(records=[one])
        assert (await self.usage.IngestUsageBatch(sent, metadata=owner.metadata)).accepted == 1

    async def ask_all(self, owner: Owner) -> dict[str, int]:
        """How many requests each answer tells of."""
        return {
            name: questions.requests(await getattr(self.usage, name)(request, metadata=caller))
            for name, (request, caller) in questions.of(owner).items()
        }

    async def read_by(self, owner: Owner) -> tuple[dict[str, int], dict[str, int]]:
        """As `ask_all`, and who answered."""
        before = _reads()
        told = await self.ask_all(owner)
        return told, {source: n - before[source] for source, n in _reads().items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(postgres: Any) -> AsyncIterator[Pair]:
    """One replica and one server for the whole file; the last test takes the replica away."""
    owner = await asyncpg.connect(postgres.get_uri())
    name = f"pair{uuid4().hex}"
    await owner.execute(f'CREATE DATABASE "{name}" TEMPLATE template_migrated')
    conn = await asyncpg.connect(postgres.get_uri(name))
    world = World(conn)
    await world.model("llama-3-70b")
    async with (
        standby_of(postgres) as standby,
        running(
            postgres.get_uri(name), read_database_url=standby.url(name), analytics_cache_mib=0
        ) as plane,
    ):
        yield Pair(standby, plane.stub(usage_pb2_grpc.UsageServiceStub), world)
    await conn.close()
    await owner.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await owner.close()


async def test_what_the_replica_has_is_read_there(pair: Pair) -> None:
    """All questions, and nothing of it by the primary."""
    owner = await pair.world.tenant()
    await pair.send(owner)
    await pair.standby.catch_up()

    told, read = await pair.read_by(owner)

    assert set(told.values()) == {1}
    assert read == {"replica": len(told), "primary": 0, "lagging": 0, "away": 0}


async def test_a_record_that_the_replica_lacks_is_in_every_answer(pair: Pair) -> None:
    """Acknowledged is acknowledged, and what others sent holds nobody up."""
    owner, quiet = await pair.world.tenant(), await pair.world.tenant()
    await pair.send(quiet)
    await pair.send(owner)
    await pair.standby.pause()
    try:
        await pair.send(owner)

        told, read = await pair.read_by(owner)
        others, read_for_others = await pair.read_by(quiet)
    finally:
        await pair.standby.resume()

    assert set(told.values()) == {2}
    assert read == {"replica": 0, "primary": 0, "lagging": len(told), "away": 0}
    assert set(others.values()) == {1}
    assert read_for_others["replica"] == len(others)


async def test_a_replica_that_caught_up_is_read_again(pair: Pair) -> None:
    """By itself, with the next question."""
    owner = await pair.world.tenant()
    await pair.standby.pause()
    await pair.send(owner)
    _, behind = await pair.read_by(owner)
    await pair.standby.resume()

    told, read = await pair.read_by(owner)

    assert behind["replica"] == 0
    assert set(told.values()) == {1}
    assert read["replica"] == len(told)


async def test_a_tenant_and_a_name_that_the_replica_lacks_are_told(pair: Pair) -> None:
    """Made and changed a moment ago."""
    await pair.standby.pause()
    try:
        owner = await pair.world.tenant()
        await pair.send(owner)
        name = f"{uuid4().hex}-new"
        await pair.world.conn.execute(
            "UPDATE api_keys SET name = $2 WHERE id = $1", owner.keys[0], name
        )
        told = await pair.usage.ListUsageByKey(pb.ListUsageByKeyRequest(), metadata=owner.metadata)
    finally:
        await pair.standby.resume()

    assert [row.key_name for row in told.data] == [name]


async def test_raw_records_are_read_from_the_replica_too(pair: Pair) -> None:
    """They are the most expensive; and behind it they are as complete as all else."""
    owner = await pair.world.tenant()
    await pair.send(owner)
    await pair.standby.catch_up()
    request = pb.GetTenantUsageDetailedRequest(id=str(owner.id), exact=True)
    before = _reads()
    first = await pair.usage.GetTenantUsageDetailed(request, metadata=ADMIN)
    assert _reads()["replica"] == before["replica"] + 1
    await pair.standby.pause()
    try:
        await pair.send(owner)
        second = await pair.usage.GetTenantUsageDetailed(request, metadata=ADMIN)
    finally:
        await pair.standby.resume()

    assert [questions.requests(answer) for answer in (first, second)] == [1, 2]


async def test_without_the_replica_the_primary_answers(pair: Pair) -> None:
    """Nobody is refused, the server says that the replica is down and that itself is well."""
    owner = await pair.world.tenant()
    await pair.send(owner)
    await pair.standby.stop()

    told, read = await pair.read_by(owner)

    assert set(told.values()) == {1}
    assert read == {"replica": 0, "primary": 0, "lagging": 0, "away": len(told)}
    await eventually(lambda: _sample("dependency_up", service="read_replica") == 0)
    assert _sample("dependency_up", service="postgresql") == 1


def _reads() -> dict[str, int]:
    return {
        source: int(_sample("usage_answers_read_total", source=source) or 0)
        for source in ("replica", "primary", "lagging", "away")
    }


def _sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)
