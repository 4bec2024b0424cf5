"""Answers about usage, through the server."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, Plane, refused
from tests.usage.world import Owner, World, hour_of, record


@pytest.fixture
def usage(plane: Plane) -> Any:
    """A stub."""
    return plane.stub(usage_pb2_grpc.UsageServiceStub)


@pytest.fixture
async def owner(world: World, usage: Any, clock: FakeClock) -> Owner:
    """A tenant with 40 records over two days: 2 models and none, 2 keys, 2 regions."""
    made = await world.tenant()
    # Ten past the hour, so that no test crosses its border.
    now = clock.now()
    clock.advance(hour_of(now) + timedelta(minutes=70) - now)
    records = [_served(made, i, clock.now() - timedelta(hours=i)) for i in range(40)]
    answer = await usage.IngestUsageBatch(
        pb.IngestUsageBatchRequest(records=records), metadata=made.metadata
    )
    assert answer.accepted == 40
    return made


def _served(owner: Owner, i: int, at: datetime) -> pb.UsageRecord:
    sent = record(
        f"r{i}",
        at,
        prompt=100 + i,
        cached_tokens=50,
        latency_ms=101 + i,
        status_code=500 if i % 4 == 0 else 200,
        region_code=("in-mumbai", "eu-west")[i % 2],
    )
    if i % 5:
        sent.model = ("llama-3-70b", "mistral-7b")[i % 2]
    if i % 3:
        sent.api_key_id = str(owner.keys[i % 2])
    return sent


async def test_by_hour_has_a_row_for_every_hour(usage: Any, owner: Owner, clock: FakeClock) -> None:
    """Exactly N rows, ascending, the current one last and partial, the sums in them."""
    answer = await usage.GetUsageByHour(
        pb.GetUsageByHourRequest(hours=168), metadata=owner.metadata
    )
    hours = [row.hour.ToSeconds() for row in answer.data]
    assert len(hours) == answer.hours == 168
    assert all(b - a == 3600 for a, b in itertools.pairwise(hours))
    assert answer.start_date.ToSeconds() == hours[0]
    assert hours[-1] == int(hour_of(clock.now()).timestamp())
    assert [row.partial for row in answer.data] == [False] * 167 + [True]
    assert sum(row.total_requests for row in answer.data) == 40
    assert sum(row.prompt_tokens for row in answer.data) == sum(range(100, 140))
    assert answer.data[0].avg_latency_ms == 0
    assert answer.data[-1].avg_latency_ms == 101
    assert answer.data[-1].total_cost_usd == answer.data[-1].total_cost_nanos / 1e9


async def test_by_hour_without_fill_has_busy_hours_only(usage: Any, world: World) -> None:
    """And none at all without traffic; with fill there are always N."""
    idle = await world.tenant()
    for fill, rows in (("none", 0), ("zero", 24)):
        answer = await usage.GetUsageByHour(
            pb.GetUsageByHourRequest(fill=fill), metadata=idle.metadata
        )
        assert len(answer.data) == rows


@pytest.mark.parametrize(
    ("values", "reason", "field"),
    [
        ({"hours": 0}, "OUT_OF_RANGE", "hours"),
        ({"hours": 169}, "OUT_OF_RANGE", "hours"),
        ({"fill": "some"}, "UNKNOWN_ENUM", "fill"),
    ],
)
async def test_by_hour_refuses_what_it_cannot_show(
    usage: Any, world: World, values: dict[str, Any], reason: str, field: str
) -> None:
    """Nothing is clamped."""
    idle = await world.tenant()
    async with refused(reason, field=field):
        await usage.GetUsageByHour(pb.GetUsageByHourRequest(**values), metadata=idle.metadata)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("group_by", ["model", "api_key", "region", "hour", "day"])
async def test_groups_add_up_to_the_total(
    usage: Any, owner: Owner, group_by: str, exact: bool
) -> None:
    """Rows without a model, key or region are a group of their own, with no name."""
    answer = await usage.GetUsageDetailed(
        pb.GetUsageDetailedRequest(group_by=group_by, exact=exact), metadata=owner.metadata
    )
    rows = answer.data
    assert answer.source == ("raw" if exact else "rollup")
    assert sum(row.total_requests for row in rows) == 40
    assert sum(row.cached_tokens for row in rows) == 2000
    assert sum(row.failed_requests for row in rows) == 10
    assert answer.pagination.total == len(rows)
    if group_by in {"hour", "day"}:
        periods = [row.period.ToSeconds() for row in rows]
        assert periods == sorted(set(periods))
    else:
        tokens = [row.total_tokens for row in rows]
        assert tokens == sorted(tokens, reverse=True)
    unnamed = [row for row in rows if not row.HasField("model_id")]
    assert len(unnamed) == (1 if group_by == "model" else len(rows))


async def test_rows_say_what_the_formula_sheet_says(usage: Any, owner: Owner) -> None:
    """Rates, means and names of one group."""
    answer = await usage.GetUsageDetailed(
        pb.GetUsageDetailedRequest(group_by="region", exact=True), metadata=owner.metadata
    )
    row = next(r for r in answer.data if r.region_code == "eu-west")
    odd = range(1, 40, 2)
    total = sum(100 + i + 10 for i in odd)
    assert (row.region_name, row.total_requests, row.successful_requests) == ("Eu-West", 20, 20)
    assert row.total_tokens == total
    assert row.cache_hit_rate_pct == pytest.approx(100 * 50 * 20 / total)
    assert row.success_rate_pct == 100
    assert row.avg_latency_ms == pytest.approx(sum(101 + i for i in odd) / 20)
    assert (row.min_latency_ms, row.max_latency_ms, row.p50_latency_ms) == (102, 140, 121)


async def test_rows_without_latency_or_tokens_divide_nothing(
    usage: Any, world: World, clock: FakeClock
) -> None:
    """No 0/0: rates and means are 0."""
    idle = await world.tenant()
    await usage.IngestUsageBatch(
        pb.IngestUsageBatchRequest(records=[record("r", prompt=0, completion=0)]),
        metadata=idle.metadata,
    )
    for exact in (False, True):
        clock.advance(timedelta(seconds=1))
        (row,) = (
            await usage.GetUsageDetailed(
                pb.GetUsageDetailedRequest(exact=exact), metadata=idle.metadata
            )
        ).data
        assert (row.cache_hit_rate_pct, row.avg_latency_ms, row.p99_latency_ms) == (0, 0, 0)
        assert (row.total_requests, row.success_rate_pct) == (1, 100)


async def test_filters_narrow_and_unknown_ones_find_nothing(
    usage: Any, owner: Owner, world: World
) -> None:
    """A well-formed unknown filter id is an empty answer."""

    async def count(**filters: Any) -> int:
        answer = await usage.GetUsageDetailed(
            pb.GetUsageDetailedRequest(group_by="day", **filters), metadata=owner.metadata
        )
        return sum(row.total_requests for row in answer.data)

    assert await count(model_id=str(world.models["llama-3-70b"])) == 16
    assert await count(api_key_id=str(owner.keys[0])) == 13
    assert await count(region_id=str(world.regions["eu-west"])) == 20
    assert await count(model_id=str(uuid4())) == 0


@pytest.mark.parametrize("group_by", ["model", "api_key", "hour", "day"])
@pytest.mark.parametrize("exact", [False, True])
async def test_keyset_equals_offset_equals_all(
    usage: Any, owner: Owner, group_by: str, exact: bool
) -> None:
    """Every way through the pages shows the same rows in the same order."""

    async def ask(**page: Any) -> Any:
        return await usage.GetUsageDetailed(
            pb.GetUsageDetailedRequest(group_by=group_by, exact=exact, **page),
            metadata=owner.metadata,
        )

    everything = [row.SerializeToString() for row in (await ask(limit=1000)).data]
    by_offset, by_token, token = [], [], None
    for offset in range(0, len(everything) + 3, 3):
        page = await ask(limit=3, offset=offset)
        assert page.pagination.total == len(everything)
        assert page.pagination.has_more == (offset + 3 < len(everything))
        by_offset += [row.SerializeToString() for row in page.data]
    while token != "":
        page = await ask(limit=3, **({"page_token": token} if token else {}))
        by_token += [row.SerializeToString() for row in page.data]
        token = page.pagination.next_page_token
    assert by_token == by_offset == everything


async def test_page_token_keeps_its_window_and_its_question(
    usage: Any, owner: Owner, clock: FakeClock
) -> None:
    """Time passing between pages moves nothing; another question is refused."""
    first = await usage.GetUsageDetailed(
        pb.GetUsageDetailedRequest(group_by="hour", limit=2), metadata=owner.metadata
    )
    clock.advance(timedelta(hours=5))
    token = first.pagination.next_page_token
    second = await usage.GetUsageDetailed(
        pb.GetUsageDetailedRequest(group_by="hour", limit=2, page_token=token),
        metadata=owner.metadata,
    )
    assert (second.start_date, second.end_date) == (first.start_date, first.end_date)
    others: list[dict[str, Any]] = [
        {"group_by": "day"},
        {"group_by": "hour", "model_id": str(uuid4())},
    ]
    for other in others:
        async with refused("INVALID_PAGE_TOKEN", field="page_token"):
            await usage.GetUsageDetailed(
                pb.GetUsageDetailedRequest(page_token=token, **other), metadata=owner.metadata
            )
    async with refused("INVALID_PAGE_TOKEN"):
        await usage.GetUsageDetailed(
            pb.GetUsageDetailedRequest(group_by="hour", page_token=token, offset=1),
            metadata=owner.metadata,
        )


@pytest.mark.parametrize(
    ("values", "reason", "field"),
    [
        ({"limit": 0}, "OUT_OF_RANGE", "limit"),
        ({"limit": 1001}, "OUT_OF_RANGE", "limit"),
        ({"offset": -1}, "OUT_OF_RANGE", "offset"),
        ({"group_by": "planet"}, "UNKNOWN_ENUM", "group_by"),
        ({"model_id": "llama"}, "INVALID_ID", "model_id"),
        ({"start_date": "2026-01-01"}, "INVALID_DATE", "start_date"),
        (
            {"start_date": "2026-01-01T00:00:00Z", "end_date": "2026-01-01T00:00:00Z"},
            "SEMANTIC",
            "start_date",
        ),
        (
            {
                "start_date": "2026-01-01T00:00:00Z",
                "end_date": "2026-03-01T00:00:00Z",
                "exact": True,
            },
            "SEMANTIC",
            "start_date",
        ),
    ],
)
async def test_detailed_refuses_and_names_the_field(
    usage: Any, world: World, values: dict[str, Any], reason: str, field: str
) -> None:
    """Out of range, unknown, malformed, impossible."""
    idle = await world.tenant()
    async with refused(reason, field=field):
        await usage.GetUsageDetailed(pb.GetUsageDetailedRequest(**values), metadata=idle.metadata)


async def test_window_snaps_to_hours_unless_exact(
    usage: Any, owner: Owner, clock: FakeClock
) -> None:
    """The echo shows what was asked and what was summed; exact counts within the exact bounds."""
    noon = hour_of(clock.now() - timedelta(hours=3))
    ask: dict[str, Any] = {
        "start_date": (noon + timedelta(minutes=59, seconds=59, microseconds=999_999)).isoformat(),
        "end_date": (noon + timedelta(hours=1)).isoformat(),
    }
    rollup = await usage.GetUsageDetailed(
        pb.GetUsageDetailedRequest(**ask), metadata=owner.metadata
    )
    exact = await usage.GetUsageDetailed(
        pb.GetUsageDetailedRequest(**ask, exact=True), metadata=owner.metadata
    )
    assert rollup.start_date == exact.start_date == exact.effective_start
    assert rollup.effective_start.ToSeconds() == int(noon.timestamp())
    assert rollup.effective_end == exact.effective_end
    assert sum(row.total_requests for row in rollup.data) == 1
    assert sum(row.total_requests for row in exact.data) == 0


async def test_administrators_see_any_tenant(usage: Any, owner: Owner) -> None:
    """The same figures, for the tenant named; unknown and malformed ids are told apart."""
    own = await usage.GetUsageDetailed(pb.GetUsageDetailedRequest(), metadata=owner.metadata)
    seen = await usage.GetTenantUsageDetailed(
        pb.GetTenantUsageDetailedRequest(id=str(owner.id)), metadata=ADMIN
    )
    assert list(seen.data) == list(own.data)
    assert (seen.tenant_id, seen.group_by, seen.pagination.limit) == (str(owner.id), "model", 1000)
    for call, request in (
        (usage.GetTenantUsageDetailed, pb.GetTenantUsageDetailedRequest),
        (usage.ListTenantDeployments, pb.ListTenantDeploymentsRequest),
    ):
        async with refused("TENANT_NOT_FOUND"):
            await call(request(id=str(uuid4())), metadata=ADMIN)
        async with refused("INVALID_ID", field="id"):
            await call(request(id="t1"), metadata=ADMIN)
        async with refused("ADMIN_TOKEN_MISSING"):
            await call(request(id=str(owner.id)), metadata=owner.metadata)


async def test_deployments_are_the_models_used(usage: Any, owner: Owner, world: World) -> None:
    """Most requests first, unattributed usage left out, page by page."""

    async def ask(**page: Any) -> Any:
        return await usage.ListTenantDeployments(
            pb.ListTenantDeploymentsRequest(id=str(owner.id), **page), metadata=ADMIN
        )

    answer = await ask()
    assert [d.total_requests for d in answer.data] == [16, 16]
    ids = [d.model_id for d in answer.data]
    assert ids == sorted(str(m) for m in world.models.values())
    first = await ask(limit=1)
    second = await ask(limit=1, page_token=first.pagination.next_page_token)
    assert [*first.data, *second.data] == list(answer.data)
    assert (await ask(limit=1, offset=1)).data == second.data
    assert (first.pagination.has_more, second.pagination.has_more) == (True, False)
    assert (await ask(offset=9)).pagination.total == 2
    for found in answer.data:
        assert found.type == "chat"
        assert found.first_used.ToSeconds() < found.last_used.ToSeconds()


async def test_tenants_see_nothing_of_each_other(usage: Any, owner: Owner, world: World) -> None:
    """Another tenant's ids as filters find nothing, never data."""
    other = await world.tenant()
    asked: list[dict[str, Any]] = [{}, {"api_key_id": str(owner.keys[0])}]
    for filters in asked:
        answer = await usage.GetUsageDetailed(
            pb.GetUsageDetailedRequest(**filters), metadata=other.metadata
        )
        assert (list(answer.data), answer.pagination.total) == ([], 0)
    hours = await usage.GetUsageByHour(pb.GetUsageByHourRequest(), metadata=other.metadata)
    assert sum(row.total_requests for row in hours.data) == 0
