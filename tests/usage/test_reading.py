"""Answers about usage are kept, and none is ever older than the question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from spotplane.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    usage_pb2_grpc,
)
from spotplane.v1 import usage_pb2 as pb
from spotplane_server.usage import revisions, rollup_queries
from spotplane_server.usage.cached_queries import LIFETIME

from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, Plane, refused, running
from tests.support.statements import Statements
from tests.usage import questions
from tests.usage.world import Owner, World, hour_of, record

pytestmark = pytest.mark.asyncio(loop_scope="module")

BYSTANDERS: Final = 20


@dataclass
class Scene:
    """A server, and what it asks its database."""

    plane: Plane
    usage: Any
    world: World
    statements: Statements
    clock: FakeClock

    async def send(self, owner: Owner, **values: Any) -> None:
        """Have one record acknowledged."""
        values = {"model": "llama-3-70b", "api_key_id": str(owner.keys[0])} | values
        sent = pb.IngestUsageBatchRequest(records=[record(**values)])
        assert (await self.usage.IngestUsageBatch(sent, metadata=owner.metadata)).accepted == 1

    async def ask(self, owner: Owner, name: str) -> Any:
        """Ask one of the questions."""
        request, caller = questions.of(owner)[name]
        return await getattr(self.usage, name)(request, metadata=caller)

    async def ran(self, name: str, request: Any, metadata: Any) -> tuple[Any, list[str]]:
        """Call, and tell which statements that took."""
        ticket = uuid4().hex
        caller = (*metadata, ("x-request-id", ticket))
        answer = await getattr(self.usage, name)(request, metadata=caller)
        return answer, self.statements.of(ticket)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(postgres: Any) -> AsyncIterator[Scene]:
    """One server for the whole file; its tests have tenants of their own."""
    owner = await asyncpg.connect(postgres.get_uri())
    name = f"reading{uuid4().hex}"
    await owner.execute(f'CREATE DATABASE "{name}" TEMPLATE template_migrated')
    statements, clock = Statements(), FakeClock()
    url = postgres.get_uri(name)
    conn = await asyncpg.connect(url)
    world = World(conn)
    await world.model("llama-3-70b")
    await world.region("eu-west")
    async with running(url, clock, on_statement=statements) as plane:
        usage = plane.stub(usage_pb2_grpc.UsageServiceStub)
        yield Scene(plane, usage, world, statements, clock)
    await conn.close()
    await owner.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await owner.close()


async def test_a_record_is_in_every_answer_once_it_is_acknowledged(scene: Scene) -> None:
    """Though each was told, and kept, just before."""
    owner = await scene.world.tenant()
    for count in range(3):
        for name in questions.of(owner):
            assert questions.requests(await scene.ask(owner, name)) == count, name
            assert questions.requests(await scene.ask(owner, name)) == count, name
        await scene.send(owner, region_code="eu-west")


@pytest.mark.parametrize("name", [*questions.OWN, "GetTenantUsageDetailed", "ListHourlyUsage"])
async def test_a_question_asked_again_costs_one_small_statement(scene: Scene, name: str) -> None:
    """The version; the first time there was more to read."""
    owner = await scene.world.tenant()
    await scene.send(owner)
    question = questions.of(owner)[name]

    first, at_first = await scene.ran(name, *question)
    again, then = await scene.ran(name, *question)
    if then != [revisions.FIND_REVISION]:
        # Another minute began in between, and with it another question.
        again, then = await scene.ran(name, *question)

    assert at_first.count(revisions.FIND_REVISION) == 1
    assert len(at_first) > 3
    assert then == [revisions.FIND_REVISION]
    assert questions.requests(first) == questions.requests(again) == 1


async def test_an_answer_is_worked_out_once_for_all_who_ask_at_the_same_time(scene: Scene) -> None:
    """One of them pays."""
    owner = await scene.world.tenant()
    await scene.send(owner)
    before = scene.statements.count(rollup_queries.SUM_KEYS)

    told = await asyncio.gather(*(scene.ask(owner, "ListUsageByKey") for _ in range(BYSTANDERS)))

    assert [questions.requests(answer) for answer in told] == [1] * BYSTANDERS
    assert scene.statements.count(rollup_queries.SUM_KEYS) == before + 1


async def test_tenants_share_no_answers(scene: Scene) -> None:
    """Of the same question at the same time."""
    owners = [await scene.world.tenant() for _ in range(3)]
    for count, owner in enumerate(owners):
        for _ in range(count):
            await scene.send(owner)

    for name in questions.OWN:
        asked = [scene.ask(owner, name) for owner in owners for _ in range(2)]
        told = await asyncio.gather(*asked)
        assert [questions.requests(answer) for answer in told] == [0, 0, 1, 1, 2, 2], name


async def test_different_questions_have_different_answers(scene: Scene) -> None:
    """Everything that was sent counts."""
    owner = await scene.world.tenant()
    await scene.send(owner)
    told = set()
    for request in (
        pb.GetUsageDetailedRequest(),
        pb.GetUsageDetailedRequest(group_by="hour"),
        pb.GetUsageDetailedRequest(group_by="day"),
        pb.GetUsageDetailedRequest(api_key_id=str(owner.keys[1])),
        pb.GetUsageDetailedRequest(exact=True),
        pb.GetUsageDetailedRequest(limit=7),
    ):
        answer = await scene.usage.GetUsageDetailed(request, metadata=owner.metadata)
        for name in ("start_date", "end_date", "effective_start", "effective_end"):
            answer.ClearField(name)
        told.add(answer.SerializeToString(deterministic=True))

    assert len(told) == 6


async def test_dates_are_told_as_they_were_asked(scene: Scene) -> None:
    """Windows of the same whole hours share an answer, and each caller reads its own dates."""
    owner = await scene.world.tenant()
    await scene.send(owner)
    end = hour_of(scene.clock.now()) + timedelta(hours=1)
    told = []
    for minutes in (0, 7, 59):
        start, until = end - timedelta(hours=5, minutes=minutes), end - timedelta(minutes=minutes)
        answer, ran = await scene.ran(
            "GetUsageSummary",
            pb.GetUsageSummaryRequest(start_date=start.isoformat(), end_date=until.isoformat()),
            owner.metadata,
        )
        assert (_at(answer.start_date), _at(answer.end_date)) == (start, until)
        told.append(len(ran))

    assert told[0] > 1
    assert told[1] > 1
    assert told[2] == 1


async def test_pages_are_kept_and_continue_each_where_its_caller_began(scene: Scene) -> None:
    """The dates of a caller's first page are those of its second, whoever asked before."""
    owner = await scene.world.tenant()
    for key in owner.keys:
        await scene.send(owner, api_key_id=str(key))
    for name in ("first", "second"):
        seen, dates, token = [], set(), ""
        while True:
            request = pb.GetUsageDetailedRequest(group_by="api_key", limit=1, page_token=token)
            page, ran = await scene.ran("GetUsageDetailed", request, owner.metadata)
            assert name == "first" or len(ran) == 1
            seen += [row.api_key_id for row in page.data]
            dates.add((_at(page.start_date), _at(page.end_date)))
            token = page.pagination.next_page_token
            if not token:
                break
        assert sorted(seen) == sorted(str(key) for key in owner.keys)
        assert len(dates) == 1


async def test_deployments_are_kept_page_by_page(scene: Scene) -> None:
    """By an administrator, most requests first."""
    owner = await scene.world.tenant()
    for _ in range(2):
        name = uuid4().hex
        await scene.world.model(name)
        await scene.send(owner, model=name)
    for _ in range(2):
        names: list[str] = []
        request = pb.ListTenantDeploymentsRequest(id=str(owner.id), limit=1)
        while True:
            page = await scene.usage.ListTenantDeployments(request, metadata=ADMIN)
            names += [row.model_id for row in page.data]
            if not page.pagination.next_page_token:
                break
            request.page_token = page.pagination.next_page_token
        assert len(set(names)) == len(names) == 2


async def test_new_names_show_at_once(scene: Scene) -> None:
    """Of a model, a key and a region, whoever gives them."""
    owner = await scene.world.tenant()
    model, region = uuid4().hex, f"r-{uuid4().hex[:8]}"
    model_id, region_id = await scene.world.model(model), await scene.world.region(region)
    await scene.send(owner, model=model, region_code=region)

    async def named() -> list[str]:
        found = []
        for group_by, field in (
            ("model", "model_name"),
            ("api_key", "api_key_name"),
            ("region", "region_name"),
        ):
            request = pb.GetUsageDetailedRequest(group_by=group_by)
            told = await scene.usage.GetUsageDetailed(request, metadata=owner.metadata)
            found.append(getattr(told.data[0], field))
        return found

    assert await named() == [model, "first", region.title()]
    stub = scene.plane.stub
    await scene.world.conn.execute(
        "UPDATE models SET name = name || '-new' WHERE id = $1", model_id
    )
    assert await named() == [f"{model}-new", "first", region.title()]
    await stub(api_key_pb2_grpc.ApiKeyServiceStub).UpdateApiKey(
        api_key_pb2.UpdateApiKeyRequest(key_id=str(owner.keys[0]), name="new"), metadata=ADMIN
    )
    assert await named() == [f"{model}-new", "new", region.title()]
    await stub(region_pb2_grpc.RegionServiceStub).UpdateRegion(
        region_pb2.UpdateRegionRequest(id=str(region_id), name="New"), metadata=ADMIN
    )
    assert await named() == [f"{model}-new", "new", "New"]


async def test_a_tenants_status_counts_at_once(scene: Scene) -> None:
    """Its own questions are refused or answered; administrators read on."""
    owner = await scene.world.tenant()
    await scene.send(owner)
    tenants = scene.plane.stub(tenant_pb2_grpc.TenantServiceStub)
    told = pb.GetTenantUsageDetailedRequest(id=str(owner.id))

    async def read() -> tuple[int, int]:
        own = await scene.ask(owner, "GetUsageDetailed")
        by_admin = await scene.usage.GetTenantUsageDetailed(told, metadata=ADMIN)
        return questions.requests(own), questions.requests(by_admin)

    assert await read() == (1, 1)
    await tenants.SuspendTenant(tenant_pb2.SuspendTenantRequest(id=str(owner.id)), metadata=ADMIN)
    async with refused("TENANT_SUSPENDED"):
        await scene.ask(owner, "GetUsageDetailed")
    late = record(tenant_id=str(owner.id))
    await scene.usage.IngestUsageBatch(pb.IngestUsageBatchRequest(records=[late]), metadata=ADMIN)
    await tenants.ActivateTenant(tenant_pb2.ActivateTenantRequest(id=str(owner.id)), metadata=ADMIN)
    assert await read() == (2, 2)
    await tenants.DeleteTenant(tenant_pb2.DeleteTenantRequest(id=str(owner.id)), metadata=ADMIN)
    async with refused("API_KEY_INVALID"):
        await scene.ask(owner, "GetUsageDetailed")
    kept = await scene.usage.GetTenantUsageDetailed(told, metadata=ADMIN)
    assert questions.requests(kept) == 2
    told.id = str(uuid4())
    async with refused("TENANT_NOT_FOUND"):
        await scene.usage.GetTenantUsageDetailed(told, metadata=ADMIN)


async def test_mended_sums_show_at_once(scene: Scene) -> None:
    """An answer that rested on a wrong sum is not told again."""
    owner = await scene.world.tenant()
    await scene.send(owner)
    await scene.world.conn.execute(
        "UPDATE usage_rollups SET requests = 9 WHERE tenant_id = $1", owner.id
    )
    wrong = await scene.ask(owner, "ListUsageByKey")

    await scene.usage.RefreshRollups(
        pb.RefreshRollupsRequest(tenant_id=str(owner.id)), metadata=ADMIN
    )

    right = await scene.ask(owner, "ListUsageByKey")
    assert (questions.requests(wrong), questions.requests(right)) == (9, 1)


async def test_no_answer_is_told_beyond_its_lifetime(scene: Scene) -> None:
    """Retention drops months and tells no version of it."""
    owner = await scene.world.tenant()
    await scene.send(owner)
    day = scene.clock.now().date()
    until = datetime(day.year, day.month, day.day, tzinfo=UTC)
    request = pb.GetUsageSummaryRequest(end_date=until.isoformat())
    await scene.ran("GetUsageSummary", request, owner.metadata)
    _, kept = await scene.ran("GetUsageSummary", request, owner.metadata)

    scene.clock.advance(LIFETIME)

    _, anew = await scene.ran("GetUsageSummary", request, owner.metadata)
    assert (len(kept), rollup_queries.SUM_MODELS in anew) == (1, True)


async def test_batches_for_the_same_tenants_in_any_order_end_well(scene: Scene) -> None:
    """Their revisions are raised in one order, so that nobody waits in a circle."""
    owners = [await scene.world.tenant() for _ in range(4)]

    async def send(turn: int) -> int:
        order = owners if turn % 2 else owners[::-1]
        records = [record(tenant_id=str(owner.id), model="llama-3-70b") for owner in order]
        sent = pb.IngestUsageBatchRequest(records=records)
        answer = await scene.usage.IngestUsageBatch(sent, metadata=ADMIN)
        return int(answer.accepted)

    assert await asyncio.gather(*(send(turn) for turn in range(24))) == [4] * 24
    for owner in owners:
        assert questions.requests(await scene.ask(owner, "ListUsageByKey")) == 24


def _at(instant: Any) -> datetime:
    found: datetime = instant.ToDatetime(UTC)
    return found
