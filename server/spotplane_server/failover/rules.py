"""What is to be done about open failovers: a pure decision over a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias
from uuid import UUID

from spotplane_server.agents.store import Config
from spotplane_server.kernel.request_context import TenantId

Kind: TypeAlias = Literal["rebalance", "termination", "silence", "drain"]

# A stronger signal takes an open failover over; a weaker one joins it.
STRENGTH: Final[dict[str, int]] = {"rebalance": 0, "drain": 1, "silence": 2, "termination": 3}

REBALANCE_LASTS: Final = timedelta(hours=2)
# After the instance's end by this, nobody will promote any more.
TERMINATION_GRACE: Final = timedelta(minutes=5)
SILENCE_LASTS: Final = timedelta(hours=2)
# A switch of last resort that failed is tried again, until the failover is over.
SWITCH_AGAIN_FIRST: Final = timedelta(seconds=10)
SWITCH_AGAIN_LAST: Final = timedelta(minutes=2)

# Gates of routine changes that no emergency asks.
NEVER_ASKED: Final = ("switch_limits", "dwell", "savings", "risk", "quotas")
# Signals that the instance may outlive.
_PATIENT: Final = frozenset({"rebalance", "drain"})


@dataclass(frozen=True, slots=True)
class Situation:
    """One open failover and what it meets.

    Attributes:
        primary_id: The instance that serves; None when none does.
        instance_status: State of the instance that goes; None when it is not known.
        heard: Whether the instance that goes has been heard of within the offline threshold.
        replica_status: State of the agent's live replica; None when there is none.
        replica_alive: Whether its instance is heard of; also when it never held a stream, since
            then its silence says nothing.
        switch_count: Switches of last resort queued so far, the last at ``switch_queued_at``.
        manual_mode: Whether a replica is kept standing anyway.
        launcher_online: Whether somebody is there to launch a replica.
        switch_open: Whether a switch of last resort is under way.
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
    replica_alive: bool
    switch_count: int
    switch_queued_at: datetime | None
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


def bypassed(config: Config) -> tuple[str, ...]:
    """What would have held a routine change of the agent back, and no emergency asks for."""
    settings = (
        ("auto_switch", config.auto_switch_enabled),
        ("manual_replica_mode", config.manual_replica_enabled),
        ("agent_disabled", config.enabled),
    )
    refused = tuple(name for name, allows in settings if not allows)
    return (*refused, *NEVER_ASKED)


def _decide(s: Situation, now: datetime) -> Move | None:
    if s.primary_id is None:
        return _nobody_serves(s, now)
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
    return _launch(s, now)


def _nobody_serves(s: Situation, now: datetime) -> Move | None:
    if s.instance_status in {"running_replica", "promoting"}:
        return Move("fail_replica", s, "the instance stood by; its replica is given up")
    # Whatever the signal was: the service is down, and somebody stands by.
    if s.replica_bound and s.replica_alive and s.replica_status in {"ready", "syncing"}:
        return Move("promote", s)
    if _too_late(s, now) or (s.kind in _PATIENT and now >= s.detected_at + SILENCE_LASTS):
        return Move("fail", s, "no instance serves, and none could take over in time")
    return None


def _launch(s: Situation, now: datetime) -> Move | None:
    if s.replica_status is not None or s.switch_open or not s.launcher_online:
        return None
    if s.switch_queued_at is not None:
        wait = min(SWITCH_AGAIN_LAST, SWITCH_AGAIN_FIRST * 2 ** min(s.switch_count - 1, 10))
        if now < s.switch_queued_at + wait:
            return None
    return Move("launch", s)


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
    return _launch(s, now)


def _promotable(s: Situation) -> bool:
    # A drain has time to wait until the replica is in step; a loss has not.
    states = {"ready"} if s.kind == "drain" else {"ready", "syncing"}
    return s.replica_bound and s.replica_alive and s.replica_status in states


def _too_late(s: Situation, now: datetime) -> bool:
    if s.kind == "termination":
        # From now: a deadline may lie at the end of time, or in the past of a clock that errs.
        return s.deadline is not None and now - TERMINATION_GRACE >= max(s.deadline, s.detected_at)
    if s.kind == "silence":
        return now >= s.detected_at + SILENCE_LASTS
    return False
