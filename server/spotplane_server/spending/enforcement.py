"""Enforcement: publish the events of a budget, and begin and end its hard stop."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from spotplane_server import events
from spotplane_server.kernel.auth.authenticator import bump_epoch
from spotplane_server.kernel.db.database import Conn
from spotplane_server.spending import rules, store
from spotplane_server.spending.rules import LIMIT_PCT, BudgetStatus


async def apply_plan(conn: Conn, budget: BudgetStatus, now: datetime) -> int:
    """Apply the plan of a locked budget; return the number of events.

    A stop begins and ends with a new credential epoch, so that it applies to every call that starts
    after the commit, on every server.
    """
    plan = rules.plan(budget)
    crossed = await store.record_crossings(conn, budget, plan.crossed, now)
    occurred = [_event(budget, *_crossing(share)) for share in crossed]
    if plan.ends:
        occurred.append(await _end_stop(conn, budget))
    if plan.begins:
        await store.insert_stop(conn, budget, now)
        occurred.append(_event(budget, "budget.stopped"))
    if plan.ends or plan.begins:
        await bump_epoch(conn)
    await events.append_many(conn, occurred, now)
    return len(occurred)


async def release_stop(conn: Conn, budget: BudgetStatus, now: datetime) -> None:
    """End the stop of a locked budget, if it has one, before the budget is deleted."""
    if budget.stopped_period is not None:
        event = await _end_stop(conn, budget)
        await bump_epoch(conn)
        await events.append(conn, event, now)


async def _end_stop(conn: Conn, budget: BudgetStatus) -> events.Event:
    await store.delete_stop(conn, budget)
    return _event(budget, "budget.resumed")


def _crossing(share: int) -> tuple[str, int]:
    return ("budget.exceeded" if share == LIMIT_PCT else "budget.threshold_reached"), share


def _event(budget: BudgetStatus, kind: str, share: int | None = None) -> events.Event:
    data: dict[str, Any] = {
        "budget_id": str(budget.id),
        "name": budget.name,
        "api_key_id": budget.api_key_id and str(budget.api_key_id),
        "period": budget.period,
        "period_start": None if budget.endless else _instant(budget.period_start),
        "period_end": None if budget.endless else _instant(budget.period_end),
        "limit_nanos": budget.limit_nanos,
        "spent_nanos": budget.spent_nanos,
        "hard_stop": budget.hard_stop,
    }
    if share is not None:
        data["threshold_pct"] = share
    return events.Event(kind, str(budget.id), data, budget.tenant_id)


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
