"""The plan: what is to be done about each open failover."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.failover import rules
from spotplane_server.failover.rules import Situation
from spotplane_server.kernel.request_context import TenantId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOON = NOW + timedelta(seconds=100)
BASE = Situation(
    tenant_id=TenantId(UUID(int=1)),
    failover_id=UUID(int=2),
    agent_id=UUID(int=3),
    instance_id="i-1",
    kind="termination",
    status="detected",
    detected_at=NOW,
    deadline=SOON,
    primary_id="i-1",
    instance_status="running_primary",
    heard=True,
    replica_id=None,
    replica_status=None,
    replica_bound=False,
    replica_created_by=None,
    replica_alive=True,
    switch_count=0,
    switch_queued_at=None,
    manual_mode=False,
    launcher_online=True,
    switch_open=False,
)
READY: dict[str, Any] = {
    "replica_id": UUID(int=4),
    "replica_status": "ready",
    "replica_bound": True,
    "replica_created_by": "user",
}
SYNCING: dict[str, Any] = READY | {"replica_status": "syncing"}
LAUNCHING: dict[str, Any] = READY | {"replica_status": "launching", "replica_bound": False}
SILENT: dict[str, Any] = {"kind": "silence", "heard": False, "launcher_online": False}
NOBODY: dict[str, Any] = {"primary_id": None, "instance_status": "terminated"}
HOURS = timedelta(hours=2)


@pytest.mark.parametrize(
    ("fields", "after", "step"),
    [
        (READY, 0, "promote"),
        (SYNCING, 0, "promote"),
        (LAUNCHING, 0, None),
        ({}, 0, "launch"),
        ({"launcher_online": False}, 0, None),
        ({"switch_open": True}, 0, None),
        ({}, 400, "fail"),
        (LAUNCHING, 400, "fail"),
        (READY, 400, "promote"),
        ({"deadline": datetime.max.replace(tzinfo=UTC)}, 400, "launch"),
        ({"deadline": NOW - timedelta(hours=1)}, 0, "launch"),
        ({"deadline": NOW - timedelta(hours=1)}, 300, "fail"),
        ({"kind": "drain", "deadline": None} | READY, 0, "promote"),
        ({"kind": "drain", "deadline": None} | SYNCING, 0, None),
        ({"kind": "drain", "deadline": None}, 0, "launch"),
        (SILENT | READY, 0, "promote"),
        (SILENT | SYNCING, 0, "promote"),
        (SILENT, 0, None),
        (SILENT | {"heard": True}, 0, "resolve"),
        (SILENT, 7200, "fail"),
        ({"kind": "rebalance"}, 0, "launch"),
        ({"kind": "rebalance"} | READY, 0, None),
        ({"kind": "rebalance"} | READY, 7200, "resolve"),
        ({"kind": "rebalance"} | READY | {"replica_created_by": "emergency"}, 7200, "release"),
        (
            {"kind": "rebalance", "manual_mode": True}
            | READY
            | {"replica_created_by": "emergency"},
            7200,
            "resolve",
        ),
        ({"primary_id": "i-2", "instance_status": "running_replica"}, 0, "fail_replica"),
        ({"primary_id": "i-2", "instance_status": "zombie"}, 0, "ignore"),
        ({"primary_id": "i-2", "instance_status": "zombie", "status": "handling"}, 0, "resolve"),
        ({"primary_id": None, "instance_status": "terminated"}, 0, None),
        ({"primary_id": None, "instance_status": "terminated"}, 400, "fail"),
        ({"primary_id": None, "instance_status": "terminated"} | SYNCING, 0, "promote"),
        ({"primary_id": None, "instance_status": "running_replica"} | READY, 0, "fail_replica"),
        (NOBODY | {"kind": "drain", "deadline": None} | SYNCING, 0, "promote"),
        (NOBODY | {"kind": "rebalance"} | READY, 0, "promote"),
        (NOBODY | {"kind": "rebalance"}, 7200, "fail"),
        (READY | {"replica_alive": False}, 0, None),
        (READY | {"replica_alive": False}, 400, "fail"),
        (SILENT | READY | {"replica_alive": False}, 0, None),
        (NOBODY | READY | {"replica_alive": False}, 0, None),
        ({"switch_count": 1, "switch_queued_at": NOW}, 9, None),
        ({"switch_count": 1, "switch_queued_at": NOW}, 10, "launch"),
        ({"switch_count": 2, "switch_queued_at": NOW}, 19, None),
        ({"switch_count": 2, "switch_queued_at": NOW}, 20, "launch"),
        ({"switch_count": 9, "switch_queued_at": NOW}, 120, "launch"),
    ],
)
def test_each_situation_has_its_step(fields: dict[str, Any], after: int, step: str | None) -> None:
    """None means wait."""
    moves = rules.plan([replace(BASE, **fields)], NOW + timedelta(seconds=after))

    assert [move.step for move in moves] == ([step] if step else [])


SITUATIONS = st.builds(
    replace,
    st.just(BASE),
    failover_id=st.uuids(),
    kind=st.sampled_from(["rebalance", "termination", "silence", "drain"]),
    status=st.sampled_from(["detected", "handling"]),
    deadline=st.none() | st.just(SOON),
    primary_id=st.sampled_from([None, "i-1", "i-2"]),
    instance_status=st.sampled_from([None, "running_primary", "running_replica", "zombie"]),
    heard=st.booleans(),
    replica_id=st.none() | st.just(UUID(int=4)),
    replica_status=st.sampled_from([None, "launching", "syncing", "ready"]),
    replica_bound=st.booleans(),
    replica_created_by=st.sampled_from([None, "user", "coordinator", "emergency"]),
    replica_alive=st.booleans(),
    switch_count=st.integers(0, 20),
    switch_queued_at=st.none() | st.just(NOW),
    manual_mode=st.booleans(),
    launcher_online=st.booleans(),
    switch_open=st.booleans(),
)
TIMES = st.integers(0, 8000).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(st.lists(SITUATIONS, max_size=8), TIMES)
def test_plan_is_at_most_one_move_for_each_failover_in_their_order(
    situations: list[Situation], now: datetime
) -> None:
    """And the same snapshot yields the same plan."""
    moves = rules.plan(situations, now)

    planned = [move.situation for move in moves]
    assert planned == [s for s in situations if s in planned]
    assert moves == rules.plan(situations, now)


@given(SITUATIONS, TIMES)
def test_nothing_is_promoted_but_a_bound_replica_of_the_instance_that_serves(
    situation: Situation, now: datetime
) -> None:
    """Or of nobody; nor launched where something stands by, or nobody could."""
    for move in rules.plan([situation], now):
        if move.step == "promote":
            assert situation.replica_bound
            assert situation.replica_alive
            assert situation.primary_id in {None, situation.instance_id}
        if move.step == "launch":
            assert situation.replica_status is None
            assert situation.launcher_online


@given(SITUATIONS)
def test_no_failover_stays_open_for_ever_but_a_drain(situation: Situation) -> None:
    """What waits for nothing that could come is closed in the end."""
    late = NOW + timedelta(days=1)
    if situation.kind == "drain" or (situation.kind == "termination" and not situation.deadline):
        return
    moves = rules.plan([situation], late)
    assert [move.step for move in moves] != []
    assert moves[0].step != "launch"
