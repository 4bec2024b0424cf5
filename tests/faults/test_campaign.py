"""A short campaign of faults, and that its checks would notice what they look for."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from spotplane_bench import stack
from spotplane_bench.faults import campaign, checks, schedule
from spotplane_bench.faults.load import Ledger


@pytest.mark.timeout(240)  # a PostgreSQL, two servers and a bridge start, some of them twice
async def test_nothing_accepted_is_lost_or_doubled_in_a_short_campaign() -> None:
    with stack.postgres() as server:
        async with stack.stack(server) as up:
            report = await campaign.run(server, up, campaign.Plan(seed=6, seconds=8, agents=8))
    assert not report.violations
    assert report.faults
    assert all(report.counts.values())


def test_a_seed_draws_the_same_faults_again() -> None:
    first, again, other = (list(islice(schedule.draw(seed), 60)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert {fault.kind for fault in first[: len(schedule.KINDS)]} == set(schedule.KINDS)


def command(
    status: str, command_id: str = "c", key: str = "k", instance: str = "i"
) -> dict[str, Any]:
    """A stored command."""
    return {"id": command_id, "request_id": key, "status": status, "instance_id": instance}


@pytest.mark.parametrize(
    ("rows", "effects", "violation"),
    [
        ([command("completed")], ["c"], None),
        ([command("failed")], ["c"], None),
        ([command("failed")], [], None),
        ([command("completed")], [], "took effect 0 times"),
        ([command("completed")], ["c", "c"], "took effect 2 times"),
        ([command("expired")], ["c"], "took effect 1 times"),
        ([command("leased", instance="taken")], ["c"], None),
        ([command("leased", instance="taken")], ["c", "c"], "took effect 2 times"),
        ([], [], "is lost"),
        ([command("completed"), command("completed", "d")], ["c", "d"], "2 commands were made"),
        ([command("completed")], ["c", "x"], "is not stored"),
    ],
)
def test_a_command_that_is_lost_or_doubled_is_found(
    rows: list[Any], effects: list[str], violation: str | None
) -> None:
    found = list(checks.check_commands(rows, effects, Ledger(commands={"c": "agent"}), {"i"}))
    assert (violation is None) == (not found)
    assert violation is None or violation in found[0]


def test_usage_that_is_lost_or_doubled_is_found() -> None:
    stored = [{"request_id": "a", "count": 1}, {"request_id": "b", "count": 2}]
    assert list(checks.check_usage(stored[:1], {"a"})) == []
    doubled, lost = checks.check_usage(stored, {"a", "b", "c"})
    assert "b is counted 2 times" in doubled
    assert "1 accepted usage records are lost, e.g. c" in lost


def test_a_key_that_is_lost_or_doubled_is_found() -> None:
    ledger = Ledger(keys={"a": "token", "b": "token"})
    doubled, lost = checks.check_keys([{"name": "a", "count": 2}], ledger)
    assert "2 keys were made of a" in doubled
    assert "b is lost" in lost


def test_a_failover_that_is_missing_doubled_or_without_cause_is_found() -> None:
    row = {"instance_id": "i", "kind": "termination", "status": "resolved"}
    assert list(checks.check_failovers([row], ["i"])) == []
    assert "led to 2 failovers" in next(checks.check_failovers([row, row], ["i"]))
    assert "led to 0 failovers" in next(checks.check_failovers([], ["i"]))
    assert "declared lost" in next(checks.check_failovers([row | {"kind": "silence"}], ["i"]))
