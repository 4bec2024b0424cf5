"""What is to be done about open failovers: a pure decision over a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias
from uuid import UUID

from spotplane_server.kernel.calls import TenantId

Kind: TypeAlias = Literal["rebalance", "termination", "silence", "drain"]

# A stronger signal takes an open failover over; a weaker one joins it.
STRENGTH: Final[dict[str, int]] = {"rebalance": 0, "drain": 1, "silence": 2, "termination": 3}

REBALANCE_LASTS: Final = timedelta(hours=2)
# After the instance's end by this, nobody will promote any more.
TERMINATION_GRACE: Final = timedelta(minutes=5)
SILENCE_LASTS: Final = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Situation:
    """One open failover and what it meets.

    Attributes:
        primary_id: The instance that serves; None when none does.
        instance_status: State of the instance that goes; None when it is not known.
        heard: Whether the instance that goes has been heard of within the offline threshold.
        replica_status: State of the agent's live replica; None when there is none.
        manual_mode: Whether a replica is kept standing anyway.
        launcher_online: Whether somebody is there to launch a replica.
        switch_open: Whether a switch of the agent is under way.
    """

    tenant_id: TenantId
    failover_id: UUID
    agent_id: UUID
    instance_id: str
    kind: Kind
    status: str
    detected_at: datetime
    deadline: datetime | None
    primary_id: str | None
    instance_status: str | None
    heard: bool
    replica_id: UUID | None
    replica_status: str | None
    replica_bound: bool
    replica_created_by: str | None
    manual_mode: bool
    launcher_online: bool
    switch_open: bool


@dataclass(frozen=True, slots=True)
class Move:
    """One step for one failover.

    `promote`: make the replica primary. `launch`: request a replica, or a switch to on-demand when
    no pool fits. `fail_replica`: the instance that goes is the replica itself. `resolve`, `fail`,
    `ignore`: close it, with why. `release`: close it and end the replica that it had requested.
    """

    step: Literal["promote", "launch", "fail_replica", "resolve", "fail", "ignore", "release"]
    situation: Situation
    why: str = ""


def plan(situations: Sequence[Situation], now: datetime) -> list[Move]:
    """Choose at most one step for every open failover; none means wait.

    Args:
        situations: The snapshot.
        now: For deadlines.

    Returns:
        Moves in the order of the situations; the same snapshot yields the same plan.
    """
    moves = (_decide(situation, now) for situation in situations)
    return [move for move in moves if move is not None]


def _decide(s: Situation, now: datetime) -> Move | None:
    if s.instance_id != s.primary_id:
        return _not_primary(s)
    if s.kind == "silence" and s.heard:
        return Move("resolve", s, "the instance was heard of again")
    if s.kind == "rebalance":
        return _rebalance(s, now)
    if _promotable(s):
        return Move("promote", s)
    if _too_late(s, now):
        return Move("fail", s, "no replica could take over in time")
    if s.replica_status is None and not s.switch_open and s.launcher_online:
        return Move("launch", s)
    return None


def _not_primary(s: Situation) -> Move:
    if s.instance_status in {"running_replica", "promoting"}:
        return Move("fail_replica", s, "the instance stood by; its replica is given up")
    if s.status == "handling":
        return Move("resolve", s, "another instance serves")
    return Move("ignore", s, "the instance does not serve")


def _rebalance(s: Situation, now: datetime) -> Move | None:
    if now >= s.detected_at + REBALANCE_LASTS:
        ours = s.replica_created_by == "emergency" and not s.manual_mode
        return Move("release" if ours else "resolve", s, "no termination followed")
    if s.replica_status is None and not s.switch_open and s.launcher_online:
        return Move("launch", s)
    return None


def _promotable(s: Situation) -> bool:
    # A drain has time to wait until the replica is in step; a loss has not.
    states = {"ready"} if s.kind == "drain" else {"ready", "syncing"}
    return s.replica_bound and s.replica_status in states


def _too_late(s: Situation, now: datetime) -> bool:
    if s.kind == "termination":
        # From now: a deadline may lie at the end of time, or in the past of a clock that errs.
        return s.deadline is not None and now - TERMINATION_GRACE >= max(s.deadline, s.detected_at)
    if s.kind == "silence":
        return now >= s.detected_at + SILENCE_LASTS
    return False
