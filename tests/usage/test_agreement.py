"""Hourly sums and raw records give the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spotplane.v1 import usage_pb2 as pb
from spotplane_server.kernel.api.paging import Page
from spotplane_server.kernel.db.database import Database
from spotplane_server.usage import group_queries, rollup_builder, sketch
from spotplane_server.usage.group_queries import GROUPINGS, Group, Grouping, GroupQuery
from spotplane_server.usage.ingest import ingest
from spotplane_server.usage.rules import OUTCOMES
from spotplane_server.usage.sketch import ALPHA, MAX_LATENCY_MS
from spotplane_server.usage.time_windows import Window

from tests.usage.world import Owner, World, hour_of, record

NOW: Final = datetime.now(UTC)
WHOLE: Final = Page(1000, 0, None, "")
EQUAL: Final = (
    "requests",
    "successes",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cost_nanos",
    "latency_count",
    "latency_sum",
    "latency_min",
    "latency_max",
)

Filters: TypeAlias = tuple[UUID | None, UUID | None, UUID | None]

# A handful of hours, the oldest almost too late, so that records meet in them.
TIMES = st.builds(
    lambda hours, seconds: NOW - timedelta(hours=hours, seconds=seconds),
    st.sampled_from([0, 1, 2, 25, 24 * 20, 24 * 34]),
    st.integers(0, 3599),
)
DRAFTS = st.fixed_dictionaries(
    {
        "at": TIMES,
        "prompt": st.integers(0, 5000),
        "completion": st.integers(0, 5000),
        "cached": st.integers(0, 5000),
        "latency": st.none() | st.just(0) | st.integers(1, MAX_LATENCY_MS),
        "outcome": st.none() | st.sampled_from(OUTCOMES),
        "model": st.none() | st.sampled_from(["llama-3-70b", "mistral-7b"]),
        "region": st.none() | st.sampled_from(["in-mumbai", "eu-west"]),
        "key": st.none() | st.integers(0, 1),
        "environment": st.none() | st.integers(0, 1),
    }
)


def sent(index: int, draft: dict[str, Any], owner: Owner) -> pb.UsageRecord:
    values: dict[str, Any] = {
        "cached_tokens": min(draft["cached"], draft["prompt"]),
        "latency_ms": draft["latency"],
        "outcome": draft["outcome"],
        "model": draft["model"],
        "region_code": draft["region"],
        "api_key_id": None if draft["key"] is None else str(owner.keys[draft["key"]]),
        "environment_id": (
            None if draft["environment"] is None else str(owner.environments[draft["environment"]])
        ),
    }
    return record(
        f"r{index}",
        draft["at"],
        prompt=draft["prompt"],
        completion=draft["completion"],
        **{name: value for name, value in values.items() if value is not None},
    )


async def groups(
    db: Database, owner: Owner, group_by: Grouping, exact: bool, filters: Filters
) -> list[Group]:
    window = Window(hour_of(NOW - timedelta(days=35)), hour_of(NOW) + timedelta(hours=1))
    query = GroupQuery(owner.id, window, group_by, *filters, exact=exact)
    async with db.transaction(owner.id, isolation="repeatable_read", readonly=True) as conn:
        return (await group_queries.list_groups(conn, query, WHOLE, [])).items


def assert_agree(rollup: Sequence[Group], exact: Sequence[Group]) -> None:
    assert [_place(g) for g in rollup] == [_place(g) for g in exact]
    for ours, theirs in zip(rollup, exact, strict=True):
        assert [ours.row[n] for n in EQUAL] == [theirs.row[n] for n in EQUAL]
        for mine, raw in zip(ours.percentiles, theirs.percentiles, strict=True):
            assert abs(mine - raw) <= raw * ALPHA * (1 + 1e-9)


def _place(group: Group) -> list[Any]:
    return [group.row[name] for name in ("period", "total_tokens", "ordinal")]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data(), st.lists(DRAFTS, min_size=1, max_size=80))
async def test_rollup_equals_exact(
    db: Database, world: World, data: st.DataObject, drafts: list[dict[str, Any]]
) -> None:
    """For random, late, repeated and unattributed records, for every group and filter."""
    owner = await world.tenant()
    records = [sent(index, draft, owner) for index, draft in enumerate(drafts)]
    cut = data.draw(st.integers(0, len(records)))
    again = data.draw(st.lists(st.sampled_from(records), max_size=20))
    accepted = 0
    for batch in (records[:cut], records[cut:] + again):
        if batch:
            accepted += (await ingest(db, owner.id, None, batch, NOW)).accepted
    assert accepted == len(records)

    choices: list[Filters] = [
        (None, None, None),
        (world.models["mistral-7b"], None, None),
        (None, owner.keys[0], None),
        (None, None, world.regions["in-mumbai"]),
        (world.models["llama-3-70b"], owner.keys[1], world.regions["eu-west"]),
    ]
    for group_by in GROUPINGS:
        for filters in choices:
            rollup = await groups(db, owner, group_by, False, filters)
            exact = await groups(db, owner, group_by, True, filters)
            assert_agree(rollup, exact)
            if filters == (None, None, None):
                assert sum(g.row["requests"] for g in rollup) == len(records)


async def test_sketches_of_many_batches_keep_every_count(db: Database, world: World) -> None:
    owner = await world.tenant()
    at = hour_of(NOW - timedelta(hours=3))
    for batch in range(12):
        latencies = range(batch, 60_000, 200)
        records = [record(f"{batch}-{n}", at, latency_ms=n) for n in latencies]
        assert not (await ingest(db, owner.id, None, records, NOW)).errors
    row = await world.conn.fetchrow(
        """SELECT numeric_send(latencies) AS latencies, latency_count
             FROM usage_rollups WHERE tenant_id = $1 AND rollup = 'hour_all'""",
        owner.id,
    )
    assert row is not None
    (counts,) = sketch.from_numerics([row["latencies"]])
    assert counts.sum() == row["latency_count"] == 12 * 300
    assert_agree(
        await groups(db, owner, "hour", False, (None, None, None)),
        await groups(db, owner, "hour", True, (None, None, None)),
    )


async def test_rollup_definitions_of_builder_and_database_are_equal(world: World) -> None:
    rows = await world.conn.fetch("SELECT * FROM usage_rollup_definitions")
    units = {"minute": rollup_builder.MINUTE_US, "hour": rollup_builder.HOUR_US}
    found = {
        row["rollup"]: (
            units.get(row["unit"], rollup_builder.DAY_US),
            tuple(
                name for name in rollup_builder.DIMENSIONS if row["by_" + name.removesuffix("_id")]
            ),
        )
        for row in rows
    }

    assert found == rollup_builder.ROLLUPS
