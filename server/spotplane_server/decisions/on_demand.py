"""Deciding for one agent, when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast
from uuid import UUID

from spotplane_server.agents.errors import AgentNotFound
from spotplane_server.decisions import agent_queries, candidates, gates, recording, snapshots
from spotplane_server.decisions.agent_queries import Key, Subject
from spotplane_server.decisions.circuit_breaker import Judged
from spotplane_server.decisions.engine import Mode, PoolView, Snapshot
from spotplane_server.decisions.engine_registry import Panel
from spotplane_server.decisions.engines.rules import BuiltInRules
from spotplane_server.decisions.recording import Ruling
from spotplane_server.decisions.snapshots import Market, View
from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices import risk
from spotplane_server.prices.queries import OnDemand


@dataclass(frozen=True, slots=True)
class Seen:
    """What a caller says of an agent's place and its market; None where it says nothing.

    Attributes:
        prices: Dollars an hour by pool id.
        zones: Zone by pool id, for pools that the plane does not know.
    """

    instance_id: str | None = None
    instance_type: str | None = None
    region: str | None = None
    mode: Mode | None = None
    pool_id: str | None = None
    on_demand_price: float | None = None
    current_price: float | None = None
    prices: Mapping[str, float] | None = None
    zones: Mapping[str, str] | None = None


NOTHING_SEEN = Seen()


async def get_subject(conn: Conn, agent_id: UUID, now: datetime) -> Subject:
    """Read an agent.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    tenant_id = await agent_queries.find_tenant_of(conn, agent_id)
    if tenant_id is None:
        raise AgentNotFound
    found = await agent_queries.list_subjects(conn, [Key(tenant_id, agent_id)], now)
    if not found:
        raise AgentNotFound
    return found[0]


async def get_view(
    conn: Conn, panel: Panel, subject: Subject, now: datetime, seen: Seen = NOTHING_SEEN
) -> View | None:
    """An agent's view of its market; None while no instance serves and none is described."""
    subject = _placed(subject, seen)
    if subject.instance_id is None or not subject.instance_type or not subject.region:
        return None
    kinds = [snapshots.kind_of(subject)]
    market = await snapshots.read_market(conn, kinds, now=now, history=panel.judge.seat.history)
    return _priced(snapshots.view_of(subject, market, now), seen)


async def rule(panel: Panel, view: View) -> Ruling:
    """Decide for a view."""
    snapshot = snapshots.remembering(view, panel.judge.seat.name)
    judged = await panel.judge.decide([snapshot], snapshot.now)
    return recording.rule(view, judged[0])


def nothing_serves(subject: Subject, now: datetime) -> Ruling:
    """What there is to say of an agent that no instance serves, nor anybody describes: to stay."""
    on_demand = {snapshots.kind_of(subject): OnDemand()}
    view = snapshots.view_of(subject, Market({}, on_demand, {}), now)
    decision = candidates.stay(view.snapshot, 0.5, "no instance serves this agent at present")
    judged = Judged(decision, BuiltInRules.name, BuiltInRules.version, None)
    return recording.rule(view, judged)


def obeying(ruling: Ruling) -> Ruling:
    """The ruling as a disabled agent is told it: to stay."""
    if ruling.view.subject.enabled or ruling.judged.decision.action == "stay":
        return ruling
    decision = candidates.stay(
        ruling.view.snapshot,
        ruling.judged.decision.confidence,
        f"the agent is disabled; else: {ruling.judged.decision.reasoning}"[:2000],
        scores=ruling.judged.decision.scores,
    )
    return replace(ruling, judged=replace(ruling.judged, decision=decision), outcome="stay")


def allowed(ruling: Ruling) -> bool:
    """Whether the agent may follow: enabled and served, its engine works, every gate passes."""
    return (
        ruling.view.subject.enabled
        and ruling.view.subject.instance_id is not None
        and not ruling.judged.active_fallback
        and gates.passed(ruling.gates)
    )


def outcome_of(ruling: Ruling) -> gates.Outcome:
    """What is stored of a decision that was asked for: nothing was ordered by it."""
    return "stay" if ruling.judged.decision.action == "stay" else "blocked"


def _placed(subject: Subject, seen: Seen) -> Subject:
    mode = seen.mode or subject.mode
    pool_id = seen.pool_id or (subject.pool_id if mode == subject.mode else None)
    return replace(
        subject,
        instance_id=seen.instance_id or subject.instance_id,
        instance_type=seen.instance_type or subject.instance_type,
        region=seen.region or subject.region,
        mode=mode,
        pool_id=pool_id,
    )


def _priced(view: View, seen: Seen) -> View:
    """The view with the caller's prices, which are as new as can be, in place of ours."""
    told = dict(seen.prices or {})
    snapshot = view.snapshot
    if seen.current_price is not None and snapshot.pool_id is not None:
        told.setdefault(snapshot.pool_id, seen.current_price)
    known = [replace(pool, price=told.get(pool.id, pool.price)) for pool in snapshot.pools]
    missing = sorted(set(told) - {pool.id for pool in known})
    fresh = [_unknown(pool_id, told[pool_id], seen) for pool_id in missing]
    pools = sorted([*known, *fresh], key=lambda pool: pool.id)
    on_demand = seen.on_demand_price or snapshot.on_demand_price
    new = [*told, *([candidates.ON_DEMAND] if seen.on_demand_price else [])]
    return replace(
        view,
        snapshot=replace(snapshot, pools=pools, on_demand_price=on_demand),
        observed={**view.observed, **dict.fromkeys(new, snapshot.now)},
    )


def _unknown(pool_id: str, price: float, seen: Seen) -> PoolView:
    zone = (seen.zones or {}).get(pool_id) or pool_id.rpartition(".")[2]
    return PoolView(pool_id, zone, price, risk.risk_v1(0, ()).value)


def mode_of(text: str | None) -> Mode | None:
    """A mode as a caller says it; None for one that says nothing."""
    return cast(Mode, text) if text in {"spot", "ondemand"} else None


def place_of(snapshot: Snapshot) -> PoolView | None:
    """The current pool, also one that has no price; None on demand."""
    if snapshot.mode != "spot":
        return None
    return next((pool for pool in snapshot.pools if pool.id == snapshot.pool_id), None)
