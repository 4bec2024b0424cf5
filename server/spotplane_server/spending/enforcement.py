"""Doing what a budget's standing asks for: telling, stopping, and letting go on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from spotplane_server import events
from spotplane_server.kernel.auth.authenticator import bump_epoch
from spotplane_server.kernel.db.database import Conn
from spotplane_server.spending import rules, store
from spotplane_server.spending.rules import LIMIT_PCT, Standing


async def act(conn: Conn, standing: Standing, now: datetime) -> int:
    """Do what is to be done about a locked budget, with its events; answer how much that was.

    A stop begins and ends under a new epoch of rights, so that it holds for every call that starts
    after the commit, on every server.
    """
    wanted = rules.plan(standing)
    told = await store.record_crossings(conn, standing, wanted.crossed, now)
    happened = [_event(standing, *_crossing(share)) for share in told]
    if wanted.ends:
        happened.append(await _end_stop(conn, standing))
    if wanted.begins:
        await store.insert_stop(conn, standing, now)
        happened.append(_event(standing, "budget.stopped"))
    if wanted.ends or wanted.begins:
        await bump_epoch(conn)
    await events.append_many(conn, happened, now)
    return len(happened)


async def let_go(conn: Conn, standing: Standing, now: datetime) -> None:
    """End the stop of a locked budget, if it has one, before the budget goes."""
    if standing.stopped_period is not None:
        event = await _end_stop(conn, standing)
        await bump_epoch(conn)
        await events.append(conn, event, now)


async def _end_stop(conn: Conn, standing: Standing) -> events.Event:
    await store.delete_stop(conn, standing)
    return _event(standing, "budget.resumed")


def _crossing(share: int) -> tuple[str, int]:
    return ("budget.exceeded" if share == LIMIT_PCT else "budget.threshold_reached"), share


def _event(standing: Standing, kind: str, share: int | None = None) -> events.Event:
    data: dict[str, Any] = {
        "budget_id": str(standing.id),
        "name": standing.name,
        "api_key_id": standing.api_key_id and str(standing.api_key_id),
        "period": standing.period,
        "period_start": None if standing.endless else _instant(standing.period_start),
        "period_end": None if standing.endless else _instant(standing.period_end),
        "limit_nanos": standing.limit_nanos,
        "spent_nanos": standing.spent_nanos,
        "hard_stop": standing.hard_stop,
    }
    if share is not None:
        data["threshold_pct"] = share
    return events.Event(kind, str(standing.id), data, standing.tenant_id)


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
