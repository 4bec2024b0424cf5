"""What an engine is: a service and its market in, where to serve and what to hold ready out.

Engines are pure: no I/O, no clock, no randomness but what the snapshot holds, so that the same
code decides live, in shadow, and in a backtest. Prices are US dollars an hour, as floats: an engine
weighs them, it does not account for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias
from uuid import UUID

Mode: TypeAlias = Literal["spot", "ondemand", "unknown"]
Action: TypeAlias = Literal["stay", "switch", "emergency"]
ReasonClass: TypeAlias = Literal["savings", "risk", "low_advantage", "availability"]


@dataclass(frozen=True, slots=True)
class PoolView:
    """One spot pool as an engine sees it.

    Attributes:
        id: ``<instance_type>.<az>``.
        az: Zone.
        price: Newest clean price, dollars an hour; None when it is not fresh.
        risk: Risk of the pool, 0 to 1.
        available: Whether capacity is believed to be had now: False after a refused launch or an
            interruption nobody has recovered from, True otherwise.
        interruptions: Instants at which instances there were interrupted, oldest first, 30 days.
        history: ``(instant, price)`` of clean buckets, oldest first, at most 7 days.
    """

    id: str
    az: str
    price: float | None
    risk: float
    available: bool = True
    interruptions: Sequence[datetime] = ()
    history: Sequence[tuple[datetime, float]] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What an agent's configuration asks of decisions; percent 0 to 100, risk 0 to 1."""

    min_savings_percent: float = 15.0
    risk_threshold: float = 0.30
    max_switches_per_day: int = 3
    max_switches_per_week: int = 10
    min_pool_duration_hours: int = 2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One service and its market at an instant.

    Attributes:
        mode: How its serving instance is paid for.
        pool_id: Pool of the serving instance; None on demand.
        serving_since: Since when it serves there.
        standby_pool_id: Pool of the live standby, ``"ondemand"`` for one on demand, None without.
        on_demand_price: Dollars an hour.
        pools: Every pool of the type and region, the current one included, in the order of ids.
        memory: What the engine answered as ``Decision.memory`` last time for this agent; empty at
            first. It is all that an engine remembers: stored with the decision, so that any server
            can go on.
        serving: Whether an instance serves now; False between a loss and the next one's boot, when
            ``mode`` and ``pool_id`` tell where it served last.
        notice_time: When the serving instance will be taken, once that was announced.
        standby_ready: Whether the standby has booted, so that it can take over at once.
        moving_to: Pool of the switch that is under way, ``"ondemand"`` for one on demand; staying
            lets it go on, another target replaces it.
        boot: From a launch until the instance can serve.
        notice: From a notice until the loss.
    """

    agent_id: UUID
    instance_type: str
    region: str
    mode: Mode
    pool_id: str | None
    serving_since: datetime
    standby_pool_id: str | None
    on_demand_price: float
    pools: Sequence[PoolView]
    limits: Limits
    now: datetime
    memory: dict[str, float] = field(default_factory=dict)
    serving: bool = True
    notice_time: datetime | None = None
    standby_ready: bool = False
    moving_to: str | None = None
    boot: timedelta = timedelta(seconds=180)
    notice: timedelta = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Decision:
    """What an engine wants.

    Attributes:
        action: ``emergency`` is a switch for risk.
        target_mode: Where to serve; of the current place when staying.
        target_pool_id: For spot.
        confidence: 0 to 1.
        risk_score: 0 to 1, of the current place.
        expected_savings: Dollars an hour against the current place.
        reasoning: For a person.
        standby: Pool in which a standby should be live now, ``"ondemand"`` for one on demand, None
            for none. It counts only where the engine's ``hedges`` says so.
        scores: Per pool id, and ``"ondemand"``, what the choice rested on; for the explanation.
    """

    action: Action
    target_mode: Mode
    target_pool_id: str | None
    confidence: float
    risk_score: float
    expected_savings: float
    reasoning: str
    reason_class: ReasonClass | None = None
    standby: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Decides for one service; may be called for many, in any order."""

    name: str
    version: str
    # Whether it also says when a standby is worth its price.
    hedges: bool

    def decide(self, snapshot: Snapshot) -> Decision:
        """Answer for a snapshot; raising counts as a failure of the engine."""
        ...
